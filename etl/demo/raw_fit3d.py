"""Writes Fit3D's raw layout: ``train/<subject>`` with ground truth, ``test/<subject>`` without."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo.cameras import origin_of
from schemas.camera import Camera

Floats = NDArray[np.floating[Any]]


def write_info(root: Path, cameras: Sequence[str], actions: Mapping[str, Sequence[str]]) -> None:
    """Write ``fit3d_info.json``: names of all cameras, and of each training subject's actions."""
    values = {
        "all_camera_names": list(cameras),
        "train_subj_names": list(actions),
        "subj_to_act": {subject: list(names) for subject, names in actions.items()},
    }
    _write(root / "fit3d_info.json", values)


def write_joints(root: Path, subject: str, action: str, joints: Floats) -> None:
    """Write ``train/<subject>/joints3d_25/<action>.json`` of IMAR_25 joints (F, 25, 3), world coordinates, metres."""
    path = root / "train" / subject / "joints3d_25" / f"{action}.json"
    _write(path, {"joints3d_25": np.asarray(joints).tolist()})


def write_camera(root: Path, subject: str, action: str, camera: Camera, labelled: bool = True) -> None:
    """Write the parameters of a camera with a pose, metres: the file has its centre in the world, not t.

    Test subjects, who aren't labelled, have one camera, and no folder for it.
    """
    values = {
        "extrinsics": {"R": np.asarray(camera.rotation).tolist(), "T": [origin_of(camera).tolist()]},
        "intrinsics_w_distortion": {
            "f": [list(camera.focal)],
            "c": [list(camera.center)],
            "k": [list(camera.radial)],
            "p": [list(camera.tangential)],
        },
        "intrinsics_wo_distortion": {"f": [1.01 * value for value in camera.focal], "c": list(camera.center)},
    }
    _write(_of_camera(root, subject, "camera_parameters", camera.name if labelled else None) / f"{action}.json", values)


def video_path(root: Path, subject: str, action: str, camera: str | None) -> Path:
    """Return the path of the video of an action; None for the only camera of a test subject."""
    return _of_camera(root, subject, "videos", camera) / f"{action}.mp4"


def _of_camera(root: Path, subject: str, kind: str, camera: str | None) -> Path:
    return root / "train" / subject / kind / camera if camera else root / "test" / subject / kind


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
