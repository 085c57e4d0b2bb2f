"""The chain of blocks: a batch of decoded frames to the features of the people in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.config import EstimateSettings
from etl.models.base import DepthField, Detections, Embeddings, Frame, MapSource, ModelSet, PooledMap, Poses
from etl.stages.blocks import compat
from etl.stages.blocks.descriptor import describe_frames
from etl.stages.blocks.people import associate, choose_person, published_boxes
from etl.stages.blocks.skeleton import coco_to_h36m
from schemas import features

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FrameFeatures:
    """Features of the people of one frame.

    Parameters
    ----------
    found : (P,) bool
        Whether each annotated person was found; the other arrays hold NaN where not.
    values : (P, 17, F) float32
        In the order of the features' names.
    valid : (P, 17) bool
        Joints with a finite position and depth.
    boxes, box_scores : (P, 4), (P,) float32
        px.
    embeddings : Embeddings
        At the joints, or empty.
    maps : mapping of str to PooledMap
        By stream, where maps are to be kept.
    """

    found: NDArray[np.bool_]
    values: Floats
    valid: NDArray[np.bool_]
    boxes: Floats
    box_scores: Floats
    embeddings: Embeddings
    maps: Mapping[str, PooledMap] = field(default_factory=dict)


def feature_names(settings: EstimateSettings) -> tuple[str, ...]:
    """Names along the dimension `feature`, as the settings ask for."""
    statistics = settings.descriptor.statistics
    return (*features.BASIC_FEATURES, *(features.STATISTICS if statistics else ()))


def estimate_batch(
    frames: Sequence[Frame], people: Sequence[Floats | None], models: ModelSet, settings: EstimateSettings
) -> list[FrameFeatures]:
    """Run all blocks on a batch of frames.

    Parameters
    ----------
    frames : sequence of Frame
        Decoded.
    people : sequence of ((P, 4) float32 or None)
        Boxes x1 y1 x2 y2 (px) of each frame's annotated people, whom detections have to match; None for the
        one person whom the rule `settings.person` chooses.
    models : ModelSet
        Built for this process.
    settings : EstimateSettings
        Rules and descriptor.

    Returns
    -------
    list of FrameFeatures
        One a frame; P is 1 where `people` is None.
    """
    if settings.association == "ground_truth_box":
        chosen, rows = _look_in_boxes(frames, people, models)
    else:
        candidates = models.estimate_poses(frames, models.detect(frames))
        rows = [_rows(poses, boxes, settings) for poses, boxes in zip(candidates, people, strict=True)]
        chosen = [poses.take([r for r in found if r >= 0]) for poses, found in zip(candidates, rows, strict=True)]
    joints = [_joints(frame, poses, settings) for frame, poses in zip(frames, chosen, strict=True)]
    depths = _depths(models, frames, chosen)
    described = _describe(frames, depths, joints, settings)
    embedded = _embeddings(models, chosen, depths, [xy for xy, _ in joints], settings)
    maps = _maps(models, chosen, depths, settings)
    return [_collect(*found) for found in zip(rows, chosen, joints, described, embedded, maps, strict=True)]


def _look_in_boxes(
    frames: Sequence[Frame], people: Sequence[Floats | None], models: ModelSet
) -> tuple[list[Poses], list[list[int]]]:
    """Poses in the boxes of annotated people, and which of a frame's poses stands for each of them; -1 for none.

    What is found in a person's box is that person, however poor the pose. Every box goes to the models as a frame of
    its own, since an estimator may leave people out and what it gives doesn't say of which box it is.
    """
    places: list[tuple[int, int, Floats]] = []
    rows = [[-1] * (1 if boxes is None else len(boxes)) for boxes in people]
    for number, (frame, tight) in enumerate(zip(frames, people, strict=True)):
        height, width = frame.image.shape[:2]
        boxes = np.zeros((0, 4), np.float32) if tight is None else published_boxes(tight, width, height)
        places += [(number, person, box) for person, box in enumerate(boxes) if np.isfinite(box).all()]
    one = np.ones(1, np.float32)
    asked = [Detections(box[None], one) for _, _, box in places]
    found = models.estimate_poses([frames[number] for number, _, _ in places], asked) if places else []
    parts: list[list[Poses]] = [[] for _ in frames]
    for (number, person, _), poses in zip(places, found, strict=True):
        if len(poses):
            rows[number][person] = len(parts[number])
            parts[number].append(poses)
    return [Poses.join(part) for part in parts], rows


def _rows(poses: Poses, boxes: Floats | None, settings: EstimateSettings) -> list[int]:
    """Which candidate stands for each annotated person; -1 for none."""
    if boxes is None:
        row = choose_person(poses, settings.person)
        return [-1 if row is None else row]
    return [int(row) for row in associate(poses, boxes, settings.min_overlap)]


def _joints(frame: Frame, poses: Poses, settings: EstimateSettings) -> tuple[Floats, Floats]:
    """H36M_17 joints (P, 17, 2) px of the people found in a frame, and their confidences (P, 17)."""
    xy, confidence = coco_to_h36m(poses.keypoints, poses.scores)
    if settings.descriptor.compat == "auglift" and frame.key.dataset == "3dpw":
        height, width = frame.image.shape[:2]
        xy = compat.whole_pixels(xy, (height, width))
    return xy, confidence


def _depths(models: ModelSet, frames: Sequence[Frame], chosen: Sequence[Poses]) -> list[DepthField | None]:
    """Depth of the frames in which somebody was found; the others don't cost a map."""
    wanted = [i for i, poses in enumerate(chosen) if len(poses)]
    found = models.estimate_depth([frames[i] for i in wanted], [chosen[i] for i in wanted]) if wanted else []
    depths: list[DepthField | None] = [None] * len(frames)
    for i, depth in zip(wanted, found, strict=True):
        depths[i] = depth
    return depths


def _describe(
    frames: Sequence[Frame],
    depths: Sequence[DepthField | None],
    joints: Sequence[tuple[Floats, Floats]],
    settings: EstimateSettings,
) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Depth at the joints of the people found, and which joints are valid."""
    rules = settings.descriptor
    nobody = np.zeros((0, 17, len(feature_names(settings)) - 3), np.float32), np.zeros((0, 17), bool)
    described: list[tuple[Floats, NDArray[np.bool_]]] = [nobody for _ in frames]
    wanted = [(i, depth) for i, depth in enumerate(depths) if depth is not None]
    if rules.compat == "auglift" and rules.depth_source != "point":
        for i, depth in wanted:
            described[i] = compat.describe(depth, *joints[i], seed=frames[i].number, depth_source=rules.depth_source)
        return described
    rows = [i for i, _ in wanted]
    found = describe_frames([d for _, d in wanted], [joints[i][0] for i in rows], [joints[i][1] for i in rows], rules)
    for i, values in zip(rows, found, strict=True):
        described[i] = values
    return described


def _embeddings(
    models: ModelSet,
    chosen: Sequence[Poses],
    depths: Sequence[DepthField | None],
    joints: Sequence[Floats],
    settings: EstimateSettings,
) -> list[Embeddings]:
    result = [Embeddings() for _ in chosen]
    if settings.embeddings.enabled and any(models.channels):
        wanted = [(i, depth) for i, depth in enumerate(depths) if depth is not None]
        rows = [i for i, _ in wanted]
        found = models.embed([chosen[i] for i in rows], [d for _, d in wanted], [joints[i] for i in rows])
        for i, embedding in zip(rows, found, strict=True):
            result[i] = embedding
    return result


def _maps(
    models: ModelSet, chosen: Sequence[Poses], depths: Sequence[DepthField | None], settings: EstimateSettings
) -> list[Mapping[str, PooledMap]]:
    result: list[Mapping[str, PooledMap]] = [{} for _ in chosen]
    if settings.embeddings.keep_maps and isinstance(models, MapSource):
        wanted = [(i, depth) for i, depth in enumerate(depths) if depth is not None]
        people = [chosen[i] for i, _ in wanted]
        pooled = models.pool_maps(people, [depth for _, depth in wanted], settings.embeddings.map_sizes)
        for (i, _), maps in zip(wanted, pooled, strict=True):
            result[i] = maps
    return result


def _collect(
    rows: Sequence[int],
    poses: Poses,
    joints: tuple[Floats, Floats],
    described: tuple[Floats, NDArray[np.bool_]],
    embeddings: Embeddings,
    maps: Mapping[str, PooledMap],
) -> FrameFeatures:
    """Put the found people back among the annotated ones."""
    found = np.array([row >= 0 for row in rows], bool)
    xy, confidence = joints
    depth_values, valid = described
    values = np.concatenate([xy, confidence[..., None], depth_values], axis=-1).astype(np.float32)

    def spread(array: NDArray[Any], fill: Any) -> NDArray[Any]:
        full = np.full((len(found), *array.shape[1:]), fill, array.dtype)
        full[found] = array
        return full

    return FrameFeatures(
        found=found,
        values=spread(values, np.nan),
        valid=spread(valid, False),
        boxes=spread(poses.boxes, np.nan),
        box_scores=spread(poses.box_scores, np.nan),
        embeddings=Embeddings(
            pose=None if embeddings.pose is None else spread(embeddings.pose, np.nan),
            depth=None if embeddings.depth is None else spread(embeddings.depth, np.nan),
            grids=embeddings.grids,
        ),
        maps={
            stream: PooledMap(spread(one.values, np.nan), spread(one.px_to_cell, np.nan), one.grid)
            for stream, one in maps.items()
        },
    )
