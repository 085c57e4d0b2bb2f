"""Make views of frames from stored features, or by running the models again on one frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.config import DescriptorConfig, EmbeddingSettings, EstimateSettings, ModelSettings
from etl.errors import MediaError, WorkspaceError
from etl.media.frames import Media, decode
from etl.models.base import DepthField, Detections, Embeddings, Frame, ModelSet, Poses
from etl.report.drawing import Image, Person, View
from etl.stages.blocks.chain import estimate_batch
from etl.stages.blocks.descriptor import person_scale, radius
from etl.stages.blocks.people import box_of_keypoints
from etl.store.workspace import FeatureStore
from schemas import annotation
from schemas.camera import Camera

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """Location of the frames of a dataset, and the settings of its features.

    Parameters
    ----------
    root : Path or None
        Folder of the raw dataset; None if unknown.
    models : ModelSettings
        The model set.
    settings : EstimateSettings
        With the association decided.
    """

    root: Path | None
    models: ModelSettings
    settings: EstimateSettings

    @classmethod
    def of(cls, store: FeatureStore, root: Path | None = None) -> Source:
        """Read what the last run recorded; `root` overrides its folder."""
        recorded = store.last_run()
        stage = json.loads((store.folder / "stage.json").read_text())
        models = recorded.get("models") or {"set": stage["models"]["name"]}
        settings = recorded.get("estimate") or stage["parameters"]
        known = Path(recorded["root"]) if recorded.get("root") else None
        found = root or known
        return cls(
            root=found if found is not None and found.is_dir() else None,
            models=ModelSettings.model_validate(models),
            settings=EstimateSettings.model_validate(settings),
        )


class Watched:
    """A model set that keeps its last poses and depths."""

    def __init__(self, models: ModelSet) -> None:
        self._models = models
        self.poses: list[Poses] = []
        self.depths: list[DepthField] = []

    @property
    def identity(self) -> dict[str, Any]:
        """The set's own."""
        return self._models.identity

    @property
    def channels(self) -> tuple[int, int]:
        """The set's own."""
        return self._models.channels

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detect, and clear the kept poses and depths."""
        self.poses, self.depths = [], []
        return self._models.detect(frames)

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        """The set's own."""
        return self._models.estimate_poses(frames, detections)

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        """Estimate depth, and keep the poses and the depth."""
        self.poses, self.depths = list(poses), self._models.estimate_depth(frames, poses)
        return self.depths

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Floats]) -> list[Embeddings]:
        """The set's own."""
        return self._models.embed(poses, depths, joints)


def look(frame: Frame, people: Floats | None, models: ModelSet, settings: EstimateSettings) -> View:
    """Run the models on one frame as estimate does, and return people, COCO joints and depth map.

    Parameters
    ----------
    frame : Frame
        The frame.
    people : (P, 4) float32, optional
        Boxes of the annotated people, where the association uses them.
    models : ModelSet
        The set.
    settings : EstimateSettings
        As in estimate.
    """
    watched = Watched(models)
    plain = settings.model_copy(update={"embeddings": EmbeddingSettings()})
    (found,) = estimate_batch([frame], [people], watched, plain)
    coco = watched.poses[0].keypoints if watched.poses else np.zeros((0, 17, 2))
    rows = np.flatnonzero(found.found).tolist()
    persons = tuple(
        person_of(found.values[row], found.boxes[row], settings.descriptor, coco=coco[i]) for i, row in enumerate(rows)
    )
    depth = np.asarray(watched.depths[0].to_array(), np.float32) if watched.depths else None
    return View(frame.image, persons, depth)


def person_of(
    values: NDArray[np.floating],
    box: NDArray[np.floating],
    descriptor: DescriptorConfig,
    *,
    coco: NDArray[np.floating] | None = None,
    truth: NDArray[np.floating] | None = None,
) -> Person:
    """Make a person from features (17, F) that begin with x, y, confidence and depth; compute the radii."""
    joints = np.asarray(values[:, :2], np.float64)
    radii = radius(values[:, 2], person_scale(joints), descriptor)
    return Person(joints, values[:, 3], radii, np.asarray(box, np.float64), coco=coco, truth=truth)


def frame_of(rows: xr.Dataset, number: int, root: Path, field_of_view: float) -> Frame:
    """Decode one frame of an annotated sequence.

    Raises
    ------
    MediaError
        When it can't be decoded.
    """
    media = Media.from_dict(json.loads(rows.attrs["media"]))
    (decoded,) = decode(root, media, [number], threads=1)
    if decoded.image is None:
        raise MediaError("The frame must be decodable.", decoded.error or "no image", "Check the raw file.")
    height, width = decoded.image.shape[:2]
    camera = annotation.camera_of(rows) or Camera.from_field_of_view(width, height, field_of_view)
    return Frame(annotation.key_of(rows), number, decoded.image, camera)


def decoded(attributes: Mapping[str, Any], numbers: Sequence[int], root: Path) -> Iterator[tuple[int, Image]]:
    """Frames (H, W, 3) uint8 of a sequence with their numbers; frames that cannot be decoded are skipped.

    Parameters
    ----------
    attributes : mapping
        Of its annotation.
    numbers : sequence of int
        Increasing.
    root : Path
        Folder of the raw dataset.
    """
    media = Media.from_dict(json.loads(attributes["media"]))
    for item in decode(root, media, numbers):
        if item.image is not None:
            yield item.number, item.image


def boxes_of(rows: xr.Dataset, number: int, settings: EstimateSettings) -> Floats | None:
    """Boxes (P, 4) of the annotated people of a frame, where the association uses them."""
    if settings.association not in ("overlap", "ground_truth_box") or not annotation.has_ground_truth(rows):
        return None
    joints = rows["keypoints_2d"].values[rows["frame_number"].values == number]
    return box_of_keypoints(joints).astype(np.float32)


def needs_root(source: Source) -> Path:
    """The folder of the raw dataset.

    Raises
    ------
    WorkspaceError
        When it is unknown or missing.
    """
    if source.root is None:
        raise WorkspaceError(
            "Pictures need the raw dataset.", "its folder isn't there any more", "Give its new place as --root."
        )
    return source.root
