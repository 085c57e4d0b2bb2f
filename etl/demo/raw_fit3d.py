"""Writes Fit3D's raw layout: ``train/<subject>`` with ground truth, ``test/<subject>`` without."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.camera import Camera

Floats = NDArray[np.floating[Any]]


def write_info(path: Path, cameras: Sequence[str], actions: Mapping[str, Sequence[str]]) -> None:
    """Write ``fit3d_info.json``: names of all cameras, and of each training subject's actions."""
    values = {
        "all_camera_names": list(cameras),
        "train_subj_names": list(actions),
        "subj_to_act": {subject: list(names) for subject, names in actions.items()},
    }
    _write(path, values)


def write_joints(root: Path, subject: str, action: str, joints: Floats) -> Path:
    """Write ``train/<subject>/joints3d_25/<action>.json`` of IMAR_25 joints (F, 25, 3), world coordinates, metres."""
    return _write(
        root / "train" / subject / "joints3d_25" / f"{action}.json", {"joints3d_25": np.asarray(joints).tolist()}
    )


def write_camera(root: Path, subject: str, action: str, camera: Camera, labelled: bool = True) -> Path:
    """Write a camera's parameters of one action.

    Parameters
    ----------
    root : Path
        The dataset's root.
    subject, action : str
        Whose.
    camera : Camera
        With a pose, metres; the file has its centre in the world, not t.
    labelled : bool
        Test subjects, which aren't, have one camera, and no folder for it.
    """
    folder = root / ("train" if labelled else "test") / subject / "camera_parameters"
    rotation = np.asarray(camera.rotation)
    place = -rotation.T @ np.asarray(camera.translation)
    values = {
        "extrinsics": {"R": rotation.tolist(), "T": [place.tolist()]},
        "intrinsics_w_distortion": {
            "f": [list(camera.focal)],
            "c": [list(camera.center)],
            "k": [list(camera.radial)],
            "p": [list(camera.tangential)],
        },
        "intrinsics_wo_distortion": {"f": [1.01 * value for value in camera.focal], "c": list(camera.center)},
    }
    return _write((folder / camera.name if labelled else folder) / f"{action}.json", values)


def video_path(root: Path, subject: str, action: str, camera: str | None) -> Path:
    """Return the path of the video of an action; None for the only camera of a test subject."""
    folder = root / ("test" if camera is None else "train") / subject / "videos"
    return (folder / camera if camera else folder) / f"{action}.mp4"


def _write(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
