"""MPI-INF-3DHP's two kinds of calibration text.

Training, ``camera.calibration``: a header, then 7 lines a camera; world-to-camera, millimetres, no distortion::

    name          0
      sensor      10 10
      size        2048 2048
      animated    0
      intrinsic   fx 0 cx 0  0 fy cy 0  0 0 1 0  0 0 0 1
      extrinsic   r11 r12 r13 tx  …  0 0 0 1
      radial      0

Test, ``.calib``: lengths on the sensor in millimetres, so that the size in pixels comes from the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etl.datasets.checks import COPY_AGAIN, read_text, require_array, require_key
from etl.datasets.geometry import require_rotation
from etl.errors import DatasetError
from schemas.camera import Camera

Floats = NDArray[np.float64]

MILLIMETRES: Final = 1000.0


def read_calibration(path: Path) -> dict[str, Camera]:
    """Cameras of a ``camera.calibration`` by name (``"0"`` to ``"13"``), with pose.

    Raises
    ------
    DatasetError
        When a camera lacks a line, a line has other numbers than it should, or R is no rotation.
    """
    blocks: dict[str, dict[str, list[str]]] = {}
    block: dict[str, list[str]] = {}
    for line in read_text(path).splitlines():
        name, *values = line.split() or [""]
        if name == "name" and values:
            block = blocks.setdefault(values[0], {})
        elif name:
            block[name] = values
    if not blocks:
        raise DatasetError(f"{path} must have lines 'name 0', 'size …', 'intrinsic …'.", "no line 'name …'", COPY_AGAIN)
    return {name: _camera(path, name, values) for name, values in blocks.items()}


def _camera(path: Path, name: str, block: dict[str, list[str]]) -> Camera:
    def numbers(key: str, count: int) -> Floats:
        return _numbers(path, f"{key} of camera {name}", require_key(path, key, block), count)

    intrinsic, extrinsic = numbers("intrinsic", 16).reshape(4, 4), numbers("extrinsic", 16).reshape(4, 4)
    width, height = numbers("size", 2)
    _require_pinhole(path, f"intrinsic of camera {name}", intrinsic)
    require_rotation(path, f"extrinsic of camera {name}", extrinsic[:3, :3])
    return Camera(
        name,
        int(width),
        int(height),
        (intrinsic[0, 0].item(), intrinsic[1, 1].item()),
        (intrinsic[0, 2].item(), intrinsic[1, 2].item()),
        rotation=_rows(extrinsic[:3, :3]),
        translation=_triple(extrinsic[:3, 3] / MILLIMETRES),
    )


def read_test_calibration(path: Path, name: str, size: tuple[int, int]) -> tuple[Camera, bool]:
    """Camera of a ``.calib`` for images of `size`, with pose, and whether the file lists a lens's distortion.

    f = focalLength · width / sensor width, f_y = f · pixelAspect, c = size / 2 + centerOffset in px; the rows of
    R are right, -up and up × right; the origin is the camera's centre. The annotations are those of a lens
    without distortion, so the camera has none.

    Raises
    ------
    DatasetError
        When a line is missing or has other numbers than it should, or up and right aren't perpendicular.
    """
    values: dict[str, list[str]] = {}
    for line in read_text(path).splitlines():
        key, *rest = line.partition("#")[0].split() or [""]
        values.setdefault(key, rest)

    def numbers(key: str, count: int) -> Floats:
        return _numbers(path, key, require_key(path, key, values), count)

    sensor, offset = numbers("sensorSize", 2), numbers("centerOffset", 2)
    if not (sensor > 0).min():
        raise DatasetError(f"'sensorSize' of {path} must be positive.", f"{sensor.tolist()}", COPY_AGAIN)
    density = np.array(size) / sensor
    focal = (numbers("focalLength", 1) * density[0]).item()
    center = np.array(size) / 2 + offset * density
    up, right = numbers("up", 3), numbers("right", 3)
    rotation = np.stack([right, -up, np.cross(up, right)])
    require_rotation(path, "up and right", rotation)
    camera = Camera(
        name,
        *size,
        (focal, focal * numbers("pixelAspect", 1).item()),
        (center[0].item(), center[1].item()),
        rotation=_rows(rotation),
        translation=_triple(-rotation @ numbers("origin", 3) / MILLIMETRES),
    )
    return camera, bool(numbers("distortion", 5).any())


def _numbers(path: Path, name: str, words: list[str], count: int) -> Floats:
    """Numbers of a line."""
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise DatasetError(f"{name!r} of {path} must be {count} numbers.", " ".join(words)[:80], COPY_AGAIN) from error
    return np.asarray(require_array(path, name, values, (count,)), np.float64)


def _require_pinhole(path: Path, name: str, matrix: Floats) -> None:
    """Refuse an intrinsic matrix (4, 4) with skew, or without a focal length."""
    expected = np.eye(4)
    expected[[0, 1, 0, 1], [0, 1, 2, 2]] = matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
    if np.any(matrix != expected) or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise DatasetError(
            f"{name!r} of {path} must be fx 0 cx 0  0 fy cy 0  0 0 1 0  0 0 0 1.", f"{matrix.tolist()}", COPY_AGAIN
        )


def _rows(matrix: Floats) -> tuple[tuple[float, float, float], ...]:
    return tuple(_triple(row) for row in matrix)


def _triple(values: NDArray[Any]) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
