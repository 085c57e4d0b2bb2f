"""The truth of a miniature dataset, in files.

One npz a sequence, without pickles, beside the raw data. Depth is kept where people are, frame by frame, and once for
the empty room (once a frame where the camera moves), as multiples of a quarter of a millimetre.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from etl.demo.scene import Actor, Picture, Scene, visible
from etl.errors import ModelError
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons import COCO_17, COCO_TO_H36M, H36M_17

Floats = NDArray[np.floating[Any]]

STEP: Final = 0.00025  # metres a unit of the depth in files
THUMBNAIL: Final = 125  # px, about: width of thumbnails
FOLDER: Final = "truth"


class Recorder:
    """Collects the truth of one sequence, frame by frame, and writes it.

    Parameters
    ----------
    key : SequenceKey
        The sequence.
    """

    def __init__(self, key: SequenceKey) -> None:
        self.key = key
        self.rows: dict[str, list[Any]] = {}
        self.patches: list[NDArray[np.uint16]] = []
        self.owners: list[NDArray[np.uint8]] = []
        self.backgrounds: list[NDArray[np.uint16]] = []
        self.scene: Scene | None = None

    def add(self, scene: Scene, actors: Sequence[Actor], picture: Picture) -> None:
        """Append the next frame: `picture` is how `scene` renders `actors`, as many in all frames.

        A camera that moves is another scene in every frame.
        """
        if self.scene is not scene:
            self.scene = scene
            self.backgrounds.append(_encode(scene.depth))
        people = [_person(scene.camera, actor, number, picture) for number, actor in enumerate(actors)]
        row: dict[str, Any] = {name: np.stack([person[name] for person in people]) for name in people[0]}
        row["backgrounds"] = np.int32(len(self.backgrounds) - 1)
        row["extents"] = x0, y0, x1, y1 = _extent(picture.mask)
        part = np.s_[y0:y1, x0:x1]
        self.patches.append(np.where(picture.mask[part], _encode(picture.depth[part]), 0).astype(np.uint16).ravel())
        self.owners.append(picture.people[part].ravel())
        row["thumbnails"] = thumbnail(picture.image)
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value)

    def write(self, path: Path) -> None:
        """Write the sequence's file."""
        assert self.scene is not None, "nothing was added"
        camera = self.scene.camera
        if len(self.backgrounds) > 1:
            camera = replace(camera, rotation=None, translation=None)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: np.stack(values) for name, values in self.rows.items()}
        np.savez_compressed(
            path,
            key=np.array(json.dumps(astuple(self.key))),
            camera=np.array(json.dumps(camera.to_dict())),
            rooms=np.stack(self.backgrounds),
            patches=np.concatenate(self.patches),
            owners=np.concatenate(self.owners),
            **arrays,
        )


def _person(camera: Camera, actor: Actor, number: int, picture: Picture) -> dict[str, Any]:
    """One person's values of one frame, named as in `PersonTruth`."""
    skeleton = actor.skeleton
    row: dict[str, Any] = {"windows": _extent(picture.people == number + 1)}
    for name, joints, names in (("coco", skeleton.coco, COCO_17.joints), ("h36m", skeleton.h36m, H36M_17.joints)):
        points = camera.world_to_camera(np.asarray(actor.to_world(joints), np.float64))
        row[f"{name}_3d"] = points
        row[f"{name}_2d"] = camera.project(points)
        row[f"{name}_visible"] = visible(picture, camera, points, names, number)
    return row


@dataclass(frozen=True)
class PersonTruth:
    """All that is known of one person in one sequence.

    Parameters
    ----------
    coco_2d, h36m_2d : (F, 17, 2) float64
        px. The conventions differ in thorax, spine, neck base and head; limbs are equal.
    coco_3d, h36m_3d : (F, 17, 3) float64
        Camera coordinates, metres.
    coco_visible, h36m_visible : (F, 17) bool
        Not hidden behind another part of a body, nor outside the image.
    windows : (F, 4) int32
        x0, y0, x1, y1 of the pixels that show the person, end excluded.
    """

    coco_2d: Floats
    coco_3d: Floats
    coco_visible: NDArray[np.bool_]
    h36m_2d: Floats
    h36m_3d: Floats
    h36m_visible: NDArray[np.bool_]
    windows: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def converted_2d(self) -> Floats:
        """(F, 17, 2) px: H36M_17 joints made from the COCO joints, the truth for what the pipeline converts."""
        return np.stack([self.coco_2d[:, list(sources)].mean(1) for sources in COCO_TO_H36M], axis=1)

    @property
    def converted_visible(self) -> NDArray[np.bool_]:
        """(F, 17): every COCO joint that the converted joint is made from is visible."""
        return np.stack([self.coco_visible[:, list(sources)].all(1) for sources in COCO_TO_H36M], axis=1)


@dataclass(frozen=True)
class SequenceTruth(PersonTruth):
    """All that is known of one sequence: of its first person, and what all people share.

    Parameters
    ----------
    key : SequenceKey
        The sequence.
    camera : Camera
        Its camera; without a pose where the camera moves.
    rooms : (B, H, W) uint16
        Depth of the empty room in units of STEP; one for each place of the camera.
    backgrounds : (F,) int32
        Which of them is behind each frame.
    extents : (F, 4) int32
        x0, y0, x1, y1 of all people's pixels, end excluded.
    patches : (sum of the extents' areas,) uint16
        Depth of the people in the extents, row by row, in units of STEP; 0 where the background shows.
    owners : (sum of the extents' areas,) uint8
        Whom the pixels show: 1 for the first person; 0 where the background shows.
    thumbnails : (F, h, w) uint8
        Grey, for telling frames apart.
    others : tuple of PersonTruth
        The second person and further ones.
    """

    key: SequenceKey
    camera: Camera
    rooms: NDArray[np.uint16]
    backgrounds: NDArray[np.int32]
    extents: NDArray[np.int32]
    patches: NDArray[np.uint16]
    owners: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    others: tuple[PersonTruth, ...] = ()

    @classmethod
    def read(cls, path: Path) -> SequenceTruth:
        """Read what `Recorder.write` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = [field.name for field in fields(PersonTruth)]
        stacked = {name: arrays.pop(name) for name in names}
        people = [
            {name: values[:, person] for name, values in stacked.items()}
            for person in range(stacked["windows"].shape[1])
        ]
        return cls(
            **people[0],
            key=SequenceKey(*json.loads(str(arrays.pop("key")))),
            camera=Camera.from_dict(json.loads(str(arrays.pop("camera")))),
            **arrays,
            others=tuple(PersonTruth(**person) for person in people[1:]),
        )

    @property
    def people(self) -> tuple[PersonTruth, ...]:
        """Everybody, the first person too."""
        return (self, *self.others)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        w = self.extents.astype(np.int64)
        return np.concatenate([[0], np.cumsum((w[:, 2] - w[:, 0]) * (w[:, 3] - w[:, 1]))])

    def depth(self, number: int) -> NDArray[np.float32]:
        """Depth map (H, W) of a frame: metres along the camera's z axis, exact to an eighth of a millimetre."""
        units = self.rooms[self.backgrounds[number]].copy()
        x0, y0, x1, y1 = self.extents[number].tolist()
        patch = self._part(self.patches, number)
        units[y0:y1, x0:x1] = np.where(patch > 0, patch, units[y0:y1, x0:x1])
        return (units * np.float32(STEP)).astype(np.float32)

    def mask(self, number: int, person: int | None = None) -> NDArray[np.bool_]:
        """The pixels (H, W) of a person in a frame, or of anybody."""
        shown = np.zeros(self.rooms.shape[1:], bool)
        x0, y0, x1, y1 = self.extents[number].tolist()
        owners = self._part(self.owners, number)
        shown[y0:y1, x0:x1] = owners > 0 if person is None else owners == person + 1
        return shown

    def _part(self, values: NDArray[Any], number: int) -> NDArray[Any]:
        x0, y0, x1, y1 = self.extents[number].tolist()
        return values[self._starts[number] : self._starts[number + 1]].reshape(y1 - y0, x1 - x0)

    def nearest(self, image: NDArray[np.uint8]) -> int:
        """Number of the frame that looks most like `image` (H, W, 3), lossy coding and all."""
        difference = self.thumbnails.astype(np.float32) - thumbnail(image)
        return int((difference**2).mean((1, 2)).argmin())


def read_truth(folder: Path) -> dict[SequenceKey, Path]:
    """The truth files below a miniature dataset's folder, by sequence."""
    found = {}
    for path in sorted((folder / FOLDER).rglob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found[SequenceKey(*json.loads(str(file["key"])))] = path
    if not found:
        raise ModelError(
            f"{folder / FOLDER} holds the truth of a rendered dataset.", "no npz file", "Render it with `xycd demo`."
        )
    return found


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small grey picture of an RGB image (H, W, 3); each pixel is the mean of a block."""
    block = max(1, round(image.shape[1] / THUMBNAIL))
    size = (max(1, image.shape[1] // block), max(1, image.shape[0] // block))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _encode(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.round(depth / STEP).clip(0, 65535).astype(np.uint16)


def _extent(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.int32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.int32)
