"""The chain of blocks: from a batch of decoded frames to the features of the people in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.config import DescriptorConfig, EstimateSettings
from etl.models.base import (
    DepthField,
    Detections,
    DeviceDepth,
    Embeddings,
    Frame,
    MapSource,
    ModelSet,
    PooledMap,
    Poses,
)
from etl.stages.blocks import compat
from etl.stages.blocks.descriptor import describe_frames, pixel_of
from etl.stages.blocks.people import associate, choose_person, published_boxes
from etl.stages.blocks.skeleton import coco_to_h36m
from schemas import features

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FrameFeatures:
    """Features of the people of one frame; NaN for people who weren't found."""

    found: NDArray[np.bool_]  # (P,): whether each annotated person was found
    values: Floats  # (P, 17, F), in the order of `feature_names`
    valid: NDArray[np.bool_]  # (P, 17): joints with a finite position and depth
    boxes: Floats  # (P, 4) px
    box_scores: Floats  # (P,)
    embeddings: Embeddings  # at the joints, or empty
    maps: Mapping[str, PooledMap] = field(default_factory=dict)  # by stream; empty unless maps are kept


def feature_names(settings: EstimateSettings) -> tuple[str, ...]:
    """Names along the dimension `feature`."""
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
        For each frame, the boxes x1 y1 x2 y2 (px) of its annotated people, to which detections are matched. None: the
        frame has one person, chosen by the rule `settings.person`.
    models : ModelSet
        Built for this process.
    settings : EstimateSettings
        Rules and descriptor.

    Returns
    -------
    list of FrameFeatures
        One for each frame; P is 1 where `people` is None.
    """
    if settings.association == "ground_truth_box":
        poses, rows = _poses_in_boxes(frames, people, models)
    else:
        candidates = models.estimate_poses(frames, models.detect(frames))
        rows = [_rows_of_people(found, boxes, settings) for found, boxes in zip(candidates, people, strict=True)]
        poses = [found.take([r for r in own if r >= 0]) for found, own in zip(candidates, rows, strict=True)]
    # Frames without people don't cost a depth map.
    seen = [i for i, found in enumerate(poses) if len(found)]
    features_of = dict(
        zip(
            seen,
            _features_of_people([frames[i] for i in seen], [poses[i] for i in seen], models, settings),
            strict=True,
        )
    )
    nobody = _nobody(settings)
    return [_spread(rows[i], features_of.get(i, nobody)) for i in range(len(frames))]


def _features_of_people(
    frames: Sequence[Frame], poses: Sequence[Poses], models: ModelSet, settings: EstimateSettings
) -> list[FrameFeatures]:
    """Features of the people found in frames, at least one in each."""
    if not frames:
        return []
    joints = [_joints(frame, found, settings) for frame, found in zip(frames, poses, strict=True)]
    depths = models.estimate_depth(frames, poses)
    described = _describe(frames, depths, joints, settings)
    embeddings, maps = [Embeddings() for _ in frames], [dict[str, PooledMap]() for _ in frames]
    if settings.embeddings.enabled and any(models.channels):
        embeddings = list(models.embed(poses, depths, [xy for xy, _ in joints]))
    if settings.embeddings.keep_maps and isinstance(models, MapSource):
        maps = [dict(own) for own in models.pool_maps(poses, depths, settings.embeddings.map_sizes)]
    return [
        FrameFeatures(
            found=np.ones(len(found), bool),
            values=np.concatenate([xy, confidence[..., None], values], axis=-1).astype(np.float32),
            valid=valid,
            boxes=found.boxes,
            box_scores=found.box_scores,
            embeddings=embedded,
            maps=own_maps,
        )
        for found, (xy, confidence), (values, valid), embedded, own_maps in zip(
            poses, joints, described, embeddings, maps, strict=True
        )
    ]


def _nobody(settings: EstimateSettings) -> FrameFeatures:
    """Features of no people."""
    return FrameFeatures(
        found=np.zeros(0, bool),
        values=np.zeros((0, 17, len(feature_names(settings))), np.float32),
        valid=np.zeros((0, 17), bool),
        boxes=np.zeros((0, 4), np.float32),
        box_scores=np.zeros(0, np.float32),
        embeddings=Embeddings(),
    )


def _poses_in_boxes(
    frames: Sequence[Frame], people: Sequence[Floats | None], models: ModelSet
) -> tuple[list[Poses], list[list[int]]]:
    """Poses in the boxes of annotated people, and for each person the row of its pose; -1 for none.

    The pose found in a person's box is that person's, however poor. Each box is passed as a frame of its own, because
    an estimator may omit people, and its poses don't name their boxes.
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


def _rows_of_people(poses: Poses, boxes: Floats | None, settings: EstimateSettings) -> list[int]:
    """Row of each annotated person's candidate; -1 for none."""
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


def _describe(
    frames: Sequence[Frame],
    depths: Sequence[DepthField],
    joints: Sequence[tuple[Floats, Floats]],
    settings: EstimateSettings,
) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Depth values (P, 17, F) at the joints of the people found, and which joints (P, 17) are valid."""
    rules = settings.descriptor
    depths = _copy_to_host(depths, joints, rules)
    if rules.compat == "auglift" and rules.depth_source != "point":
        return [
            compat.describe(depth, *found, seed=frame.number, depth_source=rules.depth_source)
            for frame, depth, found in zip(frames, depths, joints, strict=True)
        ]
    return describe_frames(depths, [xy for xy, _ in joints], [confidence for _, confidence in joints], rules)


def _copy_to_host(
    depths: Sequence[DepthField], joints: Sequence[tuple[Floats, Floats]], rules: DescriptorConfig
) -> Sequence[DepthField]:
    """Depths whose values around the joints are on the host; of maps on a device only this part is copied."""
    if not isinstance(depths[0], DeviceDepth):
        return depths
    # A pixel more on each side, because the published scripts truncate positions that the descriptor rounds.
    reach = math.ceil(max(rules.radius_max, compat.RADIUS_MAX)) + 1
    parts = []
    for depth, (xy, _) in zip(depths, joints, strict=True):
        pixels = pixel_of(xy, depth.shape).reshape(-1, 2)
        left, top = (pixels.min(axis=0) - reach).clip(0).tolist()
        right, bottom = (pixels.max(axis=0) + reach + 1).tolist()
        parts.append((slice(top, bottom), slice(left, right)))
    return depths[0].copy_parts(depths, parts)


def _spread(rows: Sequence[int], people: FrameFeatures) -> FrameFeatures:
    """Features of the people found, in the order of the annotated people; `rows` is negative for those not found."""
    found = np.array([row >= 0 for row in rows], bool)

    def spread(array: NDArray[Any], fill: Any = np.nan) -> NDArray[Any]:
        full = np.full((len(found), *array.shape[1:]), fill, array.dtype)
        full[found] = array
        return full

    pose, depth = people.embeddings.pose, people.embeddings.depth
    return FrameFeatures(
        found=found,
        values=spread(people.values),
        valid=spread(people.valid, False),
        boxes=spread(people.boxes),
        box_scores=spread(people.box_scores),
        embeddings=Embeddings(
            pose=None if pose is None else spread(pose),
            depth=None if depth is None else spread(depth),
            grids=people.embeddings.grids,
        ),
        maps={
            stream: PooledMap(spread(one.values), spread(one.px_to_cell), one.grid)
            for stream, one in people.maps.items()
        },
    )
