"""Renders a miniature Fit3D in the release's own raw layout, with the truth beside it.

::

    DIR/fit3d_info.json
    DIR/train/s03/videos/50591643/walk_the_box.mp4              H.264, 50 Hz, through a lens of Human3.6M's formula
    DIR/train/s03/camera_parameters/50591643/walk_the_box.json
    DIR/train/s03/joints3d_25/walk_the_box.json                 world, metres, legs left-first
    DIR/test/s02/videos/walk_the_box.mp4                        one camera, no ground truth
    DIR/test/s02/camera_parameters/walk_the_box.json
    DIR/truth/s03/50591643/walk_the_box.npz                     etl.demo.recording; s02's too
    DIR/xycd-demo.json                                          what this folder is

As in the release, a video may be longer than its poses.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from etl.datasets.fit3d import TEST, TRAIN, UNKNOWN_CAMERA
from etl.demo import miniature
from etl.demo.cameras import origin_of, placed, scaled
from etl.demo.miniature import act, joints_of
from etl.demo.raw_joints import imar_25
from etl.demo.raw_media import write_video
from etl.demo.recording import film
from etl.demo.scene import Actor, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey

Floats = NDArray[np.floating[Any]]

RATE: Final = 50
UNLABELLED: Final = ("s02", "s12", "s13")
MOTIONS: Final = {"walk_the_box": "Walking", "side_lateral_raise": "Posing", "overhead_trap_raises": "Directions"}
LENS: Final = Camera(
    "", 900, 900, (1039.4, 1035.2), (476.1, 449.3), "h36m",
    radial=(-0.207, 0.248, -0.003), tangential=(-0.0014, -0.0010),
)  # fmt: skip
PLACES: Final = {
    "50591643": (2.9, 3.4, 1.5), "58860488": (-2.8, 3.5, 1.4), "60457274": (-2.9, -3.3, 1.5),
    "65906101": (2.8, -3.5, 1.6),
}  # fmt: skip


@dataclass(frozen=True)
class Plan(miniature.Plan):
    """Plan of the rendered dataset; see `miniature.Plan`.

    Parameters
    ----------
    subjects : tuple of str
        Those with ground truth.
    unlabelled : tuple of str
        Those of the official test set, without.
    actions : tuple of str
        Among MOTIONS.
    cameras : tuple of str
        Those that film the subjects with ground truth.
    """

    dataset: ClassVar[str] = "fit3d"
    choices: ClassVar = {
        "subjects": (*TRAIN, *TEST), "unlabelled": UNLABELLED, "actions": tuple(MOTIONS), "cameras": tuple(PLACES),
    }  # fmt: skip

    frames: int = 20
    scale: float = 1.0
    subjects: tuple[str, ...] = ("s03", "s10")
    unlabelled: tuple[str, ...] = ("s02",)
    actions: tuple[str, ...] = ("walk_the_box",)
    cameras: tuple[str, ...] = ("50591643", "58860488")

    def sequences(self) -> list[SequenceKey]:
        """The subjects with ground truth, then the others."""
        labelled = itertools.product(self.cameras, self.subjects, self.actions)
        keys = [SequenceKey(self.dataset, subject, action, 0, camera) for camera, subject, action in labelled]
        others = itertools.product(self.unlabelled, self.actions)
        return keys + [SequenceKey(self.dataset, subject, action, 0, UNKNOWN_CAMERA) for subject, action in others]

    def video_frames(self, key: SequenceKey) -> int:
        """The first camera's videos are a frame longer than the poses, as some of the release are."""
        return self.frames + (key.camera == self.cameras[0])

    def record(self, folder: Path, key: SequenceKey) -> None:
        """Write one video with its camera and its truth."""
        camera, labelled = camera_of(key.camera, self.scale), key.camera != UNKNOWN_CAMERA
        scene = Scene(camera)
        moments = ((scene, (actor_at(key.subject, key.action, number),)) for number in range(self.video_frames(key)))
        images = film(folder, f"{key.subject}/{key.camera}/{key.action}", key, moments)
        path = video_path(folder, key.subject, key.action, key.camera if labelled else None)
        write_video(path, images, RATE)
        write_camera(folder, key.subject, key.action, camera, labelled)

    def finish(self, folder: Path) -> None:
        """Write the joints and the list of what there is."""
        for subject, action in itertools.product(self.subjects, self.actions):
            joints = joints_of(actor_at(subject, action, number) for number in range(self.frames))
            write_joints(folder, subject, action, imar_25(joints))
        write_info(folder, tuple(PLACES), dict.fromkeys(self.subjects, self.actions))


def actor_at(subject: str, action: str, number: int) -> Actor:
    """The person in frame `number`; the same for all cameras."""
    return act(subject, MOTIONS[action], number / RATE)


def camera_of(name: str, scale: float) -> Camera:
    """A camera in the room; the test subjects' only one stands where the last does."""
    place = PLACES.get(name, PLACES["65906101"])
    return placed(scaled(replace(LENS, name=name), scale), place, (0, 0, 0.9), 0.01)


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
