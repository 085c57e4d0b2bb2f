"""Writes MPI-INF-3DHP's raw layout: ``S1/Seq1`` for training, ``mpi_inf_3dhp_test_set/TS1`` for testing.

Annotations of the training set are MATLAB v5, those of the test set v7.3 (HDF5); calibrations are texts of two
kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from schemas.camera import Camera

Floats = NDArray[np.floating[Any]]

CAMERAS: Final = 14


def write_annotations(path: Path, pixels: Floats, points: Floats) -> None:
    """Write ``annot.mat``.

    Parameters
    ----------
    pixels : (14, F, 28, 2) float
        MPI_INF_3DHP_28 joints before every camera, px.
    points : (14, F, 28, 3) float
        The same in that camera's coordinates, metres; the file holds millimetres.
    """
    cameras, frames = pixels.shape[:2]
    pixels, millimetres = pixels.reshape(cameras, frames, -1), 1000 * points.reshape(cameras, frames, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        path,
        {
            "annot2": _cells(pixels),
            "annot3": _cells(millimetres),
            "univ_annot3": _cells(1.05 * millimetres),
            "cameras": np.arange(cameras, dtype=np.uint8)[None],
            "frames": np.arange(frames, dtype=np.float64)[:, None],
        },
        do_compression=True,
    )


def _cells(arrays: Floats) -> NDArray[np.object_]:
    """A MATLAB cell (n, 1) of arrays (n, ...)."""
    cells = np.empty((len(arrays), 1), object)
    cells[:, 0] = list(arrays)
    return cells


def write_calibration(path: Path, cameras: Sequence[Camera]) -> None:
    """Write ``camera.calibration``: cameras with a pose (metres; the file holds millimetres), in order."""
    lines = ["Skeletool Camera Calibration File V1.0"]
    for camera in cameras:
        (fx, fy), (cx, cy) = camera.focal, camera.center
        intrinsic = np.eye(4)
        intrinsic[[0, 1, 0, 1], [0, 1, 2, 2]] = fx, fy, cx, cy
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = camera.rotation
        extrinsic[:3, 3] = 1000 * np.asarray(camera.translation)
        lines += [
            f"name          {camera.name}",
            "  sensor      10 10",
            f"  size        {camera.width} {camera.height}",
            "  animated    0",
            # Other converters cut these two lines at their ends, so the blank there belongs to the format.
            f"  intrinsic   {_numbers(intrinsic)} ",
            f"  extrinsic   {_numbers(extrinsic)} ",
            "  radial      0",
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbers(values: Floats) -> str:
    return " ".join(f"{value:.17g}" for value in np.ravel(values).tolist())


def write_test_annotations(
    path: Path, pixels: Floats, points: Floats, valid: NDArray[np.bool_], activity: NDArray[np.integer]
) -> None:
    """Write a test sequence's ``annot_data.mat``.

    Parameters
    ----------
    pixels : (F, 17, 2) float
        MPI_INF_3DHP_17 joints, px.
    points : (F, 17, 3) float
        The same in camera coordinates, metres; the file holds millimetres.
    valid : (F,) bool
        ``valid_frame``.
    activity : (F,) int
        ``activity_annotation``, 1 to 7.
    """
    values = {
        "annot2": pixels[:, None],
        "annot3": 1000 * points[:, None],
        "univ_annot3": 1050 * points[:, None],
        "valid_frame": valid[:, None].astype(np.float64),
        "activity_annotation": activity[:, None].astype(np.float64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in values.items():
            file.create_dataset(name, data=array, compression="gzip").attrs["MATLAB_class"] = np.bytes_("double")
    # MATLAB 7.3 is HDF5 behind a header: 116 characters, 8 reserved bytes, the version, the byte order.
    header = f"{'MATLAB 7.3 MAT-file, Platform: GLNXA64':<116}".encode("ascii") + bytes(8) + b"\x00\x02IM"
    with path.open("r+b") as stream:
        stream.write(header)


def write_test_calibration(path: Path, camera: Camera, sensor: tuple[float, float] = (10.0, 10.0)) -> None:
    """Write a ``.calib`` of the test set: a camera with a pose (metres), and its sensor's width and height in mm."""
    (fx, fy), (cx, cy) = camera.focal, camera.center
    density = camera.width / sensor[0], camera.height / sensor[1]
    rotation = np.asarray(camera.rotation)
    origin = -1000 * rotation.T @ np.asarray(camera.translation)
    offset = ((cx - camera.width / 2) / density[0], (cy - camera.height / 2) / density[1])
    distortion = (*camera.radial[:2], *camera.tangential, camera.radial[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "tc camera calibration v0.3\n"
        f"camera\t0\t{camera.name}\n"
        "\tframe\t0\n"
        f"\t\tsensorSize\t{sensor[0]:.17g}\t{sensor[1]:.17g}\t# in mm\n"
        f"\t\tfocalLength\t{fx / density[0]:.17g}\t# in mm\n"
        f"\t\tpixelAspect\t{fy / fx:.17g}\n"
        f"\t\tcenterOffset\t{offset[0]:.17g}\t{offset[1]:.17g}\t# in mm (positive values move right and down)\n"
        "\t\tdistortionModel\tOpenCV\n"
        f"\t\tdistortion\t\t{_numbers(np.array(distortion))}\n"
        f"\t\t\torigin\t{_numbers(origin)}\n"
        f"\t\t\tup\t{_numbers(-rotation[1])}\n"
        f"\t\t\tright\t{_numbers(rotation[0])}\n",
        encoding="utf-8",
    )
