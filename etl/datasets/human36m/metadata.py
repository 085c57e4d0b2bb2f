"""Human3.6M's metadata.xml: names of files, frame counts, cameras and image sizes."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from etl.datasets.checks import COPY_AGAIN, nearest, parsing, read_xml
from etl.errors import DatasetError
from schemas.camera import Camera

SUBJECTS: Final = tuple(f"S{number}" for number in range(1, 12))
CAMERAS: Final = 4
ACTIONS: Final = 16  # of which the first, _ALL, is the range of motion
RANGE_OF_MOTION: Final = 1

Recording = tuple[str, str, int]
"""Subject, canonical action, subaction."""


@dataclass(frozen=True)
class Metadata:
    """What metadata.xml says.

    Parameters
    ----------
    actions : dict of str to int
        Number of each action by its canonical name, without the range of motion. Canonical is the name that
        most subjects' files have (Photo, WalkDog), since file names differ between subjects.
    aliases : dict of str to str
        Canonical name by every other name that the release uses (TakingPhoto, WalkingDog, WalkingTogether).
    names : dict of Recording to str
        Name of the files, without camera and suffix: ``TakingPhoto 1``.
    frames : dict of Recording to tuple of int
        Frames of the video of each camera.
    cameras : dict of (str, str) to Camera
        By subject and camera, in metres, with the subject's image size.
    """

    actions: dict[str, int]
    aliases: dict[str, str]
    names: dict[Recording, str]
    frames: dict[Recording, tuple[int, ...]]
    cameras: dict[tuple[str, str], Camera]

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The four cameras in the release's order."""
        return tuple(dict.fromkeys(camera for _, camera in self.cameras))

    @property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """Width and height of the frames of all cameras and subjects."""
        return frozenset((camera.width, camera.height) for camera in self.cameras.values())

    def canonical(self, action: str) -> str:
        """Canonical name of an action under any of its names; unknown names pass."""
        return self.aliases.get(action, action)


def read_metadata(path: Path) -> Metadata:
    """Read metadata.xml; the latest is kept in memory.

    Raises
    ------
    DatasetError
        When it isn't the release's.
    """
    root = path.stat() if path.is_file() else None
    return _read(path, (root.st_size, root.st_mtime_ns) if root else None)


@lru_cache(maxsize=4)
def _read(path: Path, version: object) -> Metadata:
    root = read_xml(path)
    with parsing(path, "metadata.xml of Human3.6M"):
        table = _rows(path, root, "mapping", ACTIONS * 2 + 3)
        header = table[0][2:]
        if tuple(header) != SUBJECTS:
            raise DatasetError(
                f"The table 'mapping' of {path} must have the columns S1 to S11.", f"{header}", COPY_AGAIN
            )
        numbers = [(int(row[0]), int(row[1])) for row in table[1 : 1 + ACTIONS * 2]]
        expected = [(action, subaction) for action in range(1, ACTIONS + 1) for subaction in (1, 2)]
        if numbers != expected:
            raise DatasetError(
                f"The table 'mapping' of {path} must list actions 1 to 16, subactions 1 and 2.",
                f"{numbers}",
                COPY_AGAIN,
            )
        canonical, aliases = _action_names(path, root, table)
        counts = _rows(path, root, "frames", len(SUBJECTS))
        names: dict[Recording, str] = {}
        frames: dict[Recording, tuple[int, ...]] = {}
        for place, (number, subaction) in enumerate(numbers):
            if number == RANGE_OF_MOTION:
                continue
            for column, subject in enumerate(SUBJECTS):
                recording = (subject, canonical[number], subaction)
                names[recording] = _file_name(path, table[1 + place][2 + column])
                frames[recording] = tuple(_integers(path, counts[column][1 + place], CAMERAS + 1)[:CAMERAS])
        sizes = [_integers(path, cell, 2 * CAMERAS) for cell in table[-1][2:]]
        actions = {name: number for number, name in canonical.items() if number != RANGE_OF_MOTION}
        return Metadata(actions, aliases, names, frames, _cameras(path, root, sizes))


def _rows(path: Path, root: Element, name: str, rows: int) -> list[list[str]]:
    """Text of a table's cells."""
    table = root.find(name)
    found = [] if table is None else [[cell.text or "" for cell in row] for row in table.findall("tr")]
    width = {"mapping": 2 + len(SUBJECTS), "frames": 1 + 2 * ACTIONS}[name]
    if len(found) != rows or any(len(row) != width for row in found):
        shape = f"{len(found)} rows of {sorted({len(row) for row in found})} cells"
        raise DatasetError(f"{path} must have a table {name!r} of {rows} rows of {width} cells.", shape, COPY_AGAIN)
    return found


def _items(path: Path, root: Element, name: str, count: int) -> list[str]:
    found = [(item.text or "").strip() for item in root.findall(f"{name}/item")]
    if len(found) != count or len(set(found)) != count or not all(found):
        raise DatasetError(f"{path} must have {count} different items in {name!r}.", f"{found}", COPY_AGAIN)
    return found


def _action_names(path: Path, root: Element, table: list[list[str]]) -> tuple[dict[int, str], dict[str, str]]:
    """Canonical name by number, and canonical name by alias."""
    listed = _items(path, root, "actionnames", ACTIONS)
    canonical: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for number in range(1, ACTIONS + 1):
        cells = table[2 * number - 1][2:] + table[2 * number][2:]
        names = Counter(cell.rstrip("0123456789").rstrip() for cell in cells)
        canonical[number] = names.most_common(1)[0][0]
        aliases |= {name: canonical[number] for name in (*names, listed[number - 1]) if name != canonical[number]}
    return canonical, aliases


def _file_name(path: Path, cell: str) -> str:
    """A cell that is used as part of a path."""
    if not re.fullmatch(r"[A-Za-z]+( \d+)?", cell):
        raise DatasetError(f"File names in {path} must be letters and a number.", repr(cell), COPY_AGAIN)
    return cell


def _integers(path: Path, cell: str, count: int) -> list[int]:
    """Integers of a MATLAB matrix in text: ``[1002 1000;1000 1000]``."""
    found = [int(text) for text in re.findall(r"-?\d+", cell)]
    if len(found) != count or min(found) < 0:
        raise DatasetError(f"A cell of {path} must have {count} numbers, none below 0.", repr(cell), COPY_AGAIN)
    return found


def _cameras(path: Path, root: Element, sizes: list[list[int]]) -> dict[tuple[str, str], Camera]:
    """All cameras, from the 300 numbers of ``w0``.

    The first 264 are rx ry rz (rad) tx ty tz (mm) by camera and subject, the rest fx fy cx cy k1 k2 k3 p1 p2 by camera.
    """
    ids = _items(path, root, "dbcameras/index2id", CAMERAS)
    text = (root.findtext("w0") or "").strip().strip("[]")
    values = np.array(text.split(), np.float64)
    count = CAMERAS * len(SUBJECTS) * 6 + CAMERAS * 9
    if values.shape != (count,) or not np.isfinite(values).all():
        found = f"{values.size} numbers, {int((~np.isfinite(values)).sum())} of them not finite"
        raise DatasetError(f"'w0' of {path} must be {count} finite numbers.", found, COPY_AGAIN)
    poses = values[: -CAMERAS * 9].reshape(CAMERAS, len(SUBJECTS), 6)
    lenses = values[-CAMERAS * 9 :].reshape(CAMERAS, 9).tolist()
    cameras: dict[tuple[str, str], Camera] = {}
    for column, subject in enumerate(SUBJECTS):
        for place, name in enumerate(ids):
            fx, fy, cx, cy, k1, k2, k3, p1, p2 = lenses[place]
            turn = rotation_of(poses[place, column, :3])
            tx, ty, tz = (-turn @ poses[place, column, 3:] / 1000).tolist()
            first, second, third = (tuple(row) for row in turn.tolist())
            height, width = sizes[column][2 * place : 2 * place + 2]
            cameras[subject, name] = Camera(
                name=name,
                width=width,
                height=height,
                focal=(fx, fy),
                center=(cx, cy),
                distortion="h36m",
                radial=(k1, k2, k3),
                tangential=(p1, p2),
                rotation=(first, second, third),
                translation=(tx, ty, tz),
            )
    return cameras


def rotation_of(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """World-to-camera rotation (3, 3) of the release's angles (3,) in rad; X_c = R (X_w - T).

    The product and the signs are those that give the matrices of MMPose's ``cameras.pkl``.
    """
    x, y, z = -angles[0], angles[1], -angles[2]
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(angle), math.sin(angle)) for angle in (x, y, z))
    about_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y @ about_z)


def find_metadata(root: Path) -> Path:
    """metadata.xml at its usual places in and beside `root`.

    Raises
    ------
    DatasetError
        When it isn't there.
    """
    places = [root / "metadata.xml", root / "Release-v1.2" / "metadata.xml", root.parent / "metadata.xml"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        near = nearest("metadata.xml", [entry.name for entry in root.iterdir()])
        raise DatasetError(
            f"{root} must have metadata.xml, which has the names of the files and the cameras.",
            "none there, in Release-v1.2 or in the folder above" + (f"; there is {near!r}" if near else ""),
            "Copy it from the release's code bundle (Release-v1.2).",
        )
    return found
