"""MPI-INF-3DHP's annotation files: MATLAB v5 with a cell a camera for training, v7.3 (HDF5) for testing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etl.datasets.checks import COPY_AGAIN, read_hdf5, read_mat, require_array
from etl.errors import DatasetError
from schemas.skeletons_raw import MPI_INF_3DHP_17_TO_H36M

Floats = NDArray[np.float64]

CAMERAS: Final = 14
ACTIVITIES: Final = (
    "none", "standing_walking", "exercising", "sitting", "reaching_crouching", "on_the_floor", "sports", "misc",
)  # fmt: skip


def read_annotations(path: Path, camera: int) -> tuple[Floats, Floats]:
    """2D joints (F, 28, 2) in px and 3D joints (F, 28, 3) in metres of one camera of an ``annot.mat``.

    Raises
    ------
    DatasetError
        When the file isn't MATLAB v5, its cells aren't 14 finite arrays of 56 and 84 columns, or it numbers cameras or
        frames otherwise than by their place.
    """
    stat = path.stat() if path.is_file() else None
    cells = _read_cells(path, stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0)
    pixels = require_array(path, f"annot2{{{camera + 1}}}", cells["annot2"][camera], ("F", 56), "number")
    points = require_array(path, f"annot3{{{camera + 1}}}", cells["annot3"][camera], (len(pixels), 84), "number")
    return pixels.reshape(-1, 28, 2).astype(np.float64), points.reshape(-1, 28, 3) / 1000.0


@lru_cache(maxsize=1)
def _read_cells(path: Path, size: int, mtime_ns: int) -> dict[str, list[Any]]:
    """Cells of all cameras: the file is read whole, 200 MB at most, and serves the sequence's next cameras too."""
    cells = {}
    values = read_mat(path, ("annot2", "annot3"), ("cameras", "frames"))
    require_places(path, values.pop("cameras", None), values.pop("frames", None))
    for name, value in values.items():
        if value.dtype != object or value.size != CAMERAS:
            found = f"{value.dtype} of shape {value.shape}"
            raise DatasetError(f"{name!r} of {path} must be a cell of {CAMERAS} arrays.", found, COPY_AGAIN)
        cells[name] = list(value.reshape(-1))
    return cells


def require_places(path: Path, cameras: NDArray[Any] | None, frames: NDArray[Any] | None) -> None:
    """Refuse an ``annot.mat`` whose cells aren't cameras 0 to 13 in order, or whose rows aren't frame after frame.

    Cells and rows are taken by their place, so these two variables, where they are there, have to say the same. Frames
    count from 0 or 1, and may be one list or, in a cell, one a camera.
    """
    if cameras is not None:
        numbers = require_array(path, "cameras", cameras.reshape(-1), ("N",), "number")
        if numbers.tolist() != list(range(CAMERAS)):
            raise DatasetError(f"'cameras' of {path} must be 0 to {CAMERAS - 1}.", f"{numbers.tolist()}", COPY_AGAIN)
    lists = [] if frames is None else list(frames.reshape(-1)) if frames.dtype == object else [frames]
    for each in lists:
        numbers = require_array(path, "frames", np.reshape(each, -1), ("N",), "number")
        expected = np.arange(len(numbers)) + (numbers[0] == 1)
        odd = np.flatnonzero(numbers != expected)
        if len(odd):
            found = f"{numbers[odd[0]]} at row {odd[0]}, and {len(odd)} of {len(numbers)} differ"
            raise DatasetError(f"'frames' of {path} must count each frame, from 0 or 1.", found, COPY_AGAIN)


def read_test_annotations(path: Path) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.integer]]:
    """Joints (F, 17, 2) in px and (F, 17, 3) in metres, valid_frame (F,) and activity (F,) of an ``annot_data.mat``.

    Joints are in H36M_17's order, and finite where the frame is valid.

    Raises
    ------
    DatasetError
        When the file isn't HDF5 or a variable isn't what the release says.
    """
    names = ("annot2", "annot3", "valid_frame", "activity_annotation")
    raw = read_hdf5(path, names)
    pixels = require_array(path, "annot2", raw["annot2"], ("F", 1, 17, 2), finite=False)[:, 0]
    points = require_array(path, "annot3", raw["annot3"], (len(pixels), 1, 17, 3), finite=False)[:, 0]
    # MATLAB's vectors are a column or a row.
    valid = require_array(path, "valid_frame", raw["valid_frame"].reshape(-1), (len(pixels),), "bool")
    activity = require_array(path, "activity_annotation", raw["activity_annotation"].reshape(-1), (len(pixels),), "any")
    if not np.isin(activity, range(len(ACTIVITIES))).all():
        odd = activity[~np.isin(activity, range(len(ACTIVITIES)))][0]
        raise DatasetError(f"'activity_annotation' of {path} must be 0 to {len(ACTIVITIES) - 1}.", f"{odd}", COPY_AGAIN)
    for name, joints in (("annot2", pixels), ("annot3", points)):
        require_array(path, f"{name} where valid_frame", joints[valid], joints[valid].shape)
    order = list(MPI_INF_3DHP_17_TO_H36M)
    return pixels[:, order].astype(np.float64), points[:, order] / 1000.0, valid, activity.astype(np.int64)
