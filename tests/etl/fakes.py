"""A model set with known answers, counted calls and faults on request."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.models.auglift.pooling import pool, px_to_pooled
from etl.models.base import ArrayDepth, DepthField, Detections, Embeddings, Frame, PooledMap, Poses
from etl.models.geometry import resize_matrix, translation_matrix

Floats = NDArray[np.float32]


def coco_joints(number: int, person: int = 0) -> Floats:
    """COCO joints (17, 2) px of a person in frame `number`; each person stands 200 px further right."""
    steps = np.arange(17, dtype=np.float32)
    return np.stack([60 + 200 * person + 3 * steps + number, 40 + 5 * steps], axis=-1)


def people_in(number: int, people: int) -> Floats:
    """COCO joints (P, 17, 2) px of the people in frame `number`."""
    return np.array([coco_joints(number, p) for p in range(people)], np.float32).reshape(-1, 17, 2)


def depth_of(number: int) -> float:
    """Depth of the whole frame `number`, metres."""
    return 3.0 + 0.25 * number


class FakeModels:
    """Finds `people` people in every frame.

    Parameters
    ----------
    people : int
        How many.
    empty : sequence of int
        Frames in which nobody is found.
    broken : sequence of int
        Frames on which pose estimation raises.
    channels : (int, int)
        Width of the embeddings.
    seconds : float
        Time that a frame takes.
    """

    def __init__(
        self,
        people: int = 1,
        empty: Sequence[int] = (),
        broken: Sequence[int] = (),
        channels: tuple[int, int] = (0, 0),
        seconds: float = 0.0,
    ) -> None:
        self.seconds = seconds
        self.people, self.empty, self.broken = people, set(empty), set(broken)
        self.channels = channels
        self.calls: collections.Counter[str] = collections.Counter()
        self.frames: collections.Counter[str] = collections.Counter()

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "fake", "files": {}, "people": self.people, "empty": sorted(self.empty)}

    def _count(self, block: str, frames: int) -> None:
        self.calls[block] += 1
        self.frames[block] += frames

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        self._count("detect", len(frames))
        time.sleep(self.seconds * len(frames))
        result = []
        for frame in frames:
            joints = people_in(frame.number, 0 if frame.number in self.empty else self.people)
            n = len(joints)
            boxes = np.concatenate([joints.min(1), joints.max(1)], axis=1).astype(np.float32)
            result.append(Detections(boxes, np.linspace(0.9, 0.5, n, dtype=np.float32)))
        return result

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        self._count("pose", len(frames))
        for frame in frames:
            if frame.number in self.broken:
                raise RuntimeError(f"frame {frame.number} is cursed")
        return [
            Poses(
                np.stack([coco_joints(f.number, p) for p in range(len(d))])
                if len(d)
                else np.zeros((0, 17, 2), np.float32),
                np.tile(np.linspace(0.8, 0.6, max(len(d), 1), dtype=np.float32)[: len(d), None], (1, 17)),
                d.boxes,
                d.scores,
            )
            for f, d in zip(frames, detections, strict=True)
        ]

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        self._count("depth", len(frames))
        return [ArrayDepth(np.full(f.image.shape[:2], depth_of(f.number), np.float32)) for f in frames]

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Floats]) -> list[Embeddings]:
        self._count("embed", len(poses))
        pose_width, depth_width = self.channels
        return [
            Embeddings(
                pose=np.repeat(xy[..., :1], pose_width, axis=-1).astype(np.float16),
                depth=np.repeat(xy[..., 1:], depth_width, axis=-1).astype(np.float16),
            )
            for xy in joints
        ]


GRIDS = {"pose": (9, 12), "depth": (20, 15)}
"""Columns and rows of the maps of `MappedModels`."""


def map_of(stream: str, channels: int, number: int, person: int = 0) -> Floats:
    """Feature map (channels, rows, columns) of `MappedModels` for frame `number`; that of depth is the same for all."""
    columns, rows = GRIDS[stream]
    channel, row, column = np.ogrid[:channels, :rows, :columns]
    return (0.5 * channel + row - 0.25 * column + number + (100 * person if stream == "pose" else 0)).astype(np.float32)


def px_to_cell_of(stream: str, joints: Floats) -> NDArray[np.float64]:
    """Map from px to cells of a map: 10 px a cell from a person's first joint on, or the image of 640 x 480 px."""
    if stream == "depth":
        return resize_matrix((640, 480), GRIDS["depth"])
    return np.diag([0.1, 0.1, 1.0]) @ translation_matrix(*(-joints[0].astype(np.float64)))


class MappedModels(FakeModels):
    """With feature maps; fit for one batch at a time."""

    map_layers: Mapping[str, str] = {"pose": "the last", "depth": "the first"}

    def pool_maps(
        self, poses: Sequence[Poses], depths: Sequence[DepthField], sizes: Mapping[str, tuple[int, int]]
    ) -> list[Mapping[str, PooledMap]]:
        self._count("maps", len(poses))
        widths = dict(zip(("pose", "depth"), self.channels, strict=True))
        found = []
        for people, depth in zip(poses, depths, strict=True):
            assert isinstance(depth, ArrayDepth)
            number = round(4 * (float(depth.values[0, 0]) - 3))
            streams = {}
            for stream, grid in GRIDS.items():
                persons = [round((joints[0, 0] - 60 - number) / 200) for joints in people.keypoints]
                maps = np.stack([map_of(stream, widths[stream], number, person) for person in persons])
                matrices = [px_to_pooled(px_to_cell_of(stream, j), grid, sizes[stream]) for j in people.keypoints]
                values = pool(maps, sizes[stream]).astype(np.float16)
                streams[stream] = PooledMap(values, np.stack(matrices), grid)
            found.append(streams)
        return found


def build_mapped(**settings: Any) -> MappedModels:
    """Factory for `models.set = "tests.etl.fakes:build_mapped"`."""
    settings.pop("cache", None)
    return MappedModels(**settings)


def build(**settings: Any) -> FakeModels:
    """Factory for `models.set = "tests.etl.fakes:build"`."""
    settings.pop("cache", None)
    return FakeModels(**settings)
