"""Records the truth of rendered sequences in files: one npz a sequence, without pickles, beside the raw data.

Depth is kept where people are, frame by frame, and once for the empty room (once a frame where the camera moves), as
multiples of a quarter of a millimetre.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from etl.demo.scene import Actor, Picture, Scene, visible
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons import COCO_17, H36M_17

STEP: Final = 0.00025  # metres a unit of the depth in files
THUMBNAIL: Final = 125  # px, about: width of thumbnails
FOLDER: Final = "truth"


def film(
    folder: Path, name: str, key: SequenceKey, moments: Iterable[tuple[Scene, tuple[Actor, ...]]]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the image (H, W, 3) of each moment; after the last, write the truth of the sequence.

    Parameters
    ----------
    folder : Path
        The miniature, which gets ``truth/<name>.npz``.
    name : str
        The release's name of the sequence: ``S1/Directions 1.54138969``.
    key : SequenceKey
        The sequence.
    moments : iterable of (Scene, tuple of Actor)
        One a frame, with as many actors in all. A camera that moves is another scene in every frame.
    """
    scene: Scene | None = None
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    rooms, patches, owners = [], [], []
    for current, actors in moments:
        picture = current.render(*actors)
        if current is not scene:
            scene = current
            rooms.append(_encode(scene.depth))
        people = [_person(scene.camera, actor, number, picture) for number, actor in enumerate(actors)]
        row: dict[str, Any] = {field: np.stack([person[field] for person in people]) for field in people[0]}
        row["backgrounds"] = np.int32(len(rooms) - 1)
        row["extents"] = x0, y0, x1, y1 = _extent(picture.mask)
        row["thumbnails"] = thumbnail(picture.image)
        for field, value in row.items():
            rows[field].append(value)
        part = np.s_[y0:y1, x0:x1]
        patches.append(np.where(picture.mask[part], _encode(picture.depth[part]), np.uint16(0)).ravel())
        owners.append(picture.people[part].ravel())
        yield picture.image
    assert scene is not None, "a sequence has at least one frame"
    camera = scene.camera if len(rooms) == 1 else replace(scene.camera, rotation=None, translation=None)
    path = folder / FOLDER / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {field: np.stack(values) for field, values in rows.items()}
    np.savez_compressed(
        path,
        key=np.array(json.dumps(astuple(key))),
        camera=np.array(json.dumps(camera.to_dict())),
        rooms=np.stack(rooms),
        patches=np.concatenate(patches),
        owners=np.concatenate(owners),
        **arrays,
    )


def _person(camera: Camera, actor: Actor, number: int, picture: Picture) -> dict[str, Any]:
    """One person's values of one frame, named as in `etl.demo.truth.PersonTruth`."""
    skeleton = actor.skeleton
    row: dict[str, Any] = {"windows": _extent(picture.people == number + 1)}
    for name, joints, names in (("coco", skeleton.coco, COCO_17.joints), ("h36m", skeleton.h36m, H36M_17.joints)):
        points = camera.world_to_camera(np.asarray(actor.to_world(joints), np.float64))
        row[f"{name}_3d"] = points
        row[f"{name}_2d"] = camera.project(points)
        row[f"{name}_visible"] = visible(picture, camera, points, names, number)
    return row


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small grey picture of an RGB image (H, W, 3); each pixel is the mean of a block."""
    block = max(1, round(image.shape[1] / THUMBNAIL))
    size = (max(1, image.shape[1] // block), max(1, image.shape[0] // block))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _encode(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.round(depth / STEP).clip(0, 65535).astype(np.uint16)


def _extent(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """x0, y0, x1, y1 of the pixels that are set, end excluded."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.int32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.int32)
