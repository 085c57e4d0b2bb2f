"""Files that MMPose's mocap datasets read: the annotation npz and the pickle of cameras, as its converters write them.

| key | shape | dtype | |
|---|---|---|---|
| imgname | (N,) | unicode | |
| center, scale | (N, 2), (N,) | float64 | px; 1.2 * longer side of the box / 200 |
| part | (N, 17, 3) | float64 | px and visibility |
| S | (N, 17, 4) | float64 | metres in camera coordinates, absolute, and visibility |
| metadata | () | unicode | JSON, which MMPose doesn't read: order and sources of the joints, counts |

Joints are in the order of H36M_17, except for MPI-INF-3DHP, whose own order MMPose keeps (root at 14).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from schemas.camera import Camera
from schemas.skeletons import H36M_17, Skeleton
from schemas.skeletons_raw import H36M_TO_MPI_INF_3DHP_17, MPI_INF_3DHP_17

ARRAYS: Final[dict[str, tuple[int, ...]]] = {"center": (2,), "scale": (), "part": (17, 3), "S": (17, 4)}
H36M_CAMERAS: Final = ("54138969", "55011271", "58860488", "60457274")


@dataclass(frozen=True)
class Convention:
    """How MMPose stores a dataset.

    Parameters
    ----------
    skeleton : Skeleton
        Joints in the order of the npz.
    order : tuple of int
        Indices that bring joints from H36M_17 into that order: ``h36m[:, order]``.
    camera_key : callable
        Key of a sequence's camera in the pickle, from the annotation dataset.
    camera : callable
        Entry of the pickle, from a camera and its key.
    """

    skeleton: Skeleton
    order: tuple[int, ...]
    camera_key: Callable[[xr.Dataset], Hashable]
    camera: Callable[[Camera, Any], dict[str, Any]]


def rows(ds: xr.Dataset, dataset: str) -> dict[str, NDArray[np.float64]]:
    """Return the arrays of ARRAYS for all rows of an annotation dataset with ground truth."""
    order = list(convention(dataset).order)
    visibility = ds["visibility"].values.astype(np.float64)[:, order, None]
    return {
        "center": ds["center"].values,
        "scale": ds["scale"].values,
        "part": np.concatenate([ds["keypoints_2d"].values[:, order], visibility], -1),
        "S": np.concatenate([ds["keypoints_3d"].values[:, order], visibility], -1),
    }


def convention(dataset: str) -> Convention:
    """Return MMPose's convention for a dataset; for others that of Human3.6M, with other keys of cameras."""
    return _CONVENTIONS.get(dataset, _OTHERS)


def describe_order(dataset: str) -> dict[str, Any]:
    """Return MMPose's skeleton and the indices of its joints in H36M_17, JSON-ready."""
    how = convention(dataset)
    return {"mmpose_skeleton": how.skeleton.name, "mmpose_order": list(how.order)}


def pickle_cameras(cameras: dict[Hashable, dict[str, Any]]) -> bytes:
    """Pickle cameras in a form that NumPy before 2 also reads."""
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=2).dump(cameras)
    # NumPy 2 moved the function that rebuilds arrays; old versions know its old place only, new ones both.
    # Protocol 2 ends names by a line break, so that their length isn't stored anywhere.
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _intrinsics(camera: Camera) -> dict[str, Any]:
    return {
        "f": np.array(camera.focal, np.float64).reshape(2, 1),
        "c": np.array(camera.center, np.float64).reshape(2, 1),
        "w": camera.width,
        "h": camera.height,
    }


def _simple_camera(camera: Camera, key: Any) -> dict[str, Any]:
    """MMPose's SimpleCamera: R is camera-to-world, T the camera's centre in the world, metres."""
    entry = _intrinsics(camera) | {"name": camera.name, "id": camera.name}
    if camera.rotation is not None and camera.translation is not None:
        rotation = np.array(camera.rotation, np.float64)
        entry["R"] = np.ascontiguousarray(rotation.T)
        entry["T"] = -rotation.T @ np.array(camera.translation, np.float64).reshape(3, 1)
    if camera.distortion != "none":
        entry["k"] = np.array(camera.radial, np.float64).reshape(3, 1)
        entry["p"] = np.array(camera.tangential, np.float64).reshape(2, 1)
    return entry


def _human36m_camera(camera: Camera, key: Any) -> dict[str, Any]:
    number = H36M_CAMERAS.index(camera.name) + 1 if camera.name in H36M_CAMERAS else camera.name
    return _simple_camera(camera, key) | {"name": f"camera{number}"}


def _mpi_inf_3dhp_camera(camera: Camera, key: str) -> dict[str, Any]:
    """MMPose keeps the calibration file's R and T, which are world-to-camera, and has none for the test set."""
    entry = _intrinsics(camera)
    if key.startswith("TS"):
        return entry | {"name": f"test_cam_{key.removeprefix('TS')}"}
    if camera.rotation is not None and camera.translation is not None:
        entry["R"] = np.array(camera.rotation, np.float64)
        entry["T"] = np.array(camera.translation, np.float64).reshape(3, 1)
    return entry | {"name": f"train_cam_{key.rpartition('_Cam')[2]}"}


_IN_PLACE: Final = tuple(range(len(H36M_17)))
_CONVENTIONS: Final = {
    "h36m": Convention(H36M_17, _IN_PLACE, lambda ds: (ds.attrs["subject"], ds.attrs["camera"]), _human36m_camera),
    "3dhp": Convention(
        MPI_INF_3DHP_17,
        H36M_TO_MPI_INF_3DHP_17,
        # S1_Seq1_Cam0_000001.jpg, TS1_000001.jpg
        lambda ds: str(ds.attrs["imgname"]).rpartition("_")[0],
        _mpi_inf_3dhp_camera,
    ),
}
_OTHERS: Final = Convention(
    H36M_17, _IN_PLACE, lambda ds: (ds.attrs["subject"], ds.attrs["camera"], ds.attrs["release_name"]), _simple_camera
)
