"""Renders a miniature 3DPW in the release's own raw layout, with the truth beside it.

::

    DIR/imageFiles/courtyard_meeting_00/image_00000.jpg
    DIR/sequenceFiles/train/courtyard_meeting_00.pkl            Python 2 pickle
    DIR/truth/courtyard_meeting_00.npz                          etl.demo.recording
    DIR/xycd-demo.json                                          what this folder is

The camera is carried about. As in the release, the camera's pose is invalid in a frame (BAD_POSE), a person isn't
detected in a frame (UNSEEN), and some people have 300 betas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from etl.datasets.threedpw.reader import CAMERA, sequence_key, sequence_name
from etl.demo import miniature, raw_threedpw
from etl.demo.cameras import placed
from etl.demo.miniature import act, joints_of
from etl.demo.raw_joints import openpose_18, smpl_24
from etl.demo.recording import film
from etl.demo.scene import Actor, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey

RATE: Final = 30
FOCAL: Final = (1962.0, 1969.0)  # px, of all phones of the release, nearly
PORTRAIT, LANDSCAPE = (1080, 1920), (1920, 1080)
BAD_POSE: Final = 2  # this frame's camera pose is wrong, and marked
UNSEEN: Final = 4  # in this frame the last person isn't detected


@dataclass(frozen=True)
class Shot:
    """One sequence.

    Parameters
    ----------
    split : str
        train, validation or test.
    size : (int, int)
        Width and height of the release's images.
    people : tuple of (motion, phase, (x, y))
        What each person does, and where in the room.
    origin : (x, y)
        Where the camera starts, metres.
    """

    split: str
    size: tuple[int, int]
    people: tuple[tuple[str, float, tuple[float, float]], ...]
    origin: tuple[float, float]


SHOTS: Final = {
    "courtyard_meeting_00": Shot(
        "train", LANDSCAPE, (("Greeting", 0.0, (-0.9, 0)), ("Directions", 0.5, (0.9, 0.3))), origin=(0.6, 4.8)
    ),
    "outdoors_posing_01": Shot("validation", PORTRAIT, (("Posing", 0.1, (0, 0)),), origin=(-1.7, 2.8)),
    # Two people stand behind each other.
    "downtown_talking_00": Shot(
        "test", PORTRAIT, (("Directions", 0.3, (-0.1, 0.5)), ("Greeting", 0.0, (0.25, -0.6))), origin=(0.5, 4.0)
    ),
}


@dataclass(frozen=True)
class Plan(miniature.Plan):
    """Plan of the rendered dataset; see `miniature.Plan`.

    Parameters
    ----------
    names : tuple of str
        Of the sequences, among SHOTS.
    """

    dataset: ClassVar[str] = "3dpw"
    choices: ClassVar = {"names": tuple(SHOTS)}

    frames: int = 12
    scale: float = 0.5
    names: tuple[str, ...] = tuple(SHOTS)

    def sequences(self) -> list[SequenceKey]:
        """One of each name."""
        return [sequence_key(name) for name in self.names]

    def record(self, folder: Path, key: SequenceKey) -> None:
        """Write one sequence's images, its pickle and its truth."""
        name = sequence_name(key)
        numbers = range(self.frames)
        cast = [actors_at(name, number) for number in numbers]
        cameras = [camera_at(name, number, self.scale) for number in numbers]
        moments = ((Scene(camera), actors) for camera, actors in zip(cameras, cast, strict=True))
        raw_threedpw.write_images(folder, name, film(folder, name, key, moments))
        world = smpl_24(np.stack([joints_of(actors[who] for actors in cast) for who in range(len(cast[0]))]))
        seen = np.stack([camera.world_to_camera(world[:, number]) for number, camera in enumerate(cameras)], axis=1)
        poses2d = openpose_18(seen, cameras[0].project(seen))
        poses2d[-1, UNSEEN : UNSEEN + 1] = 0
        valid = np.ones(world.shape[:2], bool)
        valid[:, BAD_POSE : BAD_POSE + 1] = False
        (fx, fy), (cx, cy) = cameras[0].focal, cameras[0].center
        raw_threedpw.write_sequence(
            folder,
            SHOTS[name].split,
            name,
            joints=world,
            cam_poses=np.stack([_matrix(camera) if valid[0, n] else np.eye(4) for n, camera in enumerate(cameras)]),
            intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            poses2d=poses2d,
            campose_valid=valid,
            shape_parameters=(300,),
        )


def actors_at(name: str, number: int) -> tuple[Actor, ...]:
    """Everybody in frame `number` of a sequence."""
    people = enumerate(SHOTS[name].people)
    return tuple(act(f"{name}-{who}", motion, number / RATE, phase, shift) for who, (motion, phase, shift) in people)


def camera_at(name: str, number: int, scale: float) -> Camera:
    """The camera at frame `number` of a sequence: walked half a metre a second, not held quite still."""
    shot, seconds = SHOTS[name], number / RATE
    width, height = (2 * round(side * scale / 2) for side in shot.size)
    # The release's images are (2 cx, 2 cy) large.
    lens = Camera(CAMERA, width, height, (FOCAL[0] * scale, FOCAL[1] * scale), (width / 2, height / 2))
    x, y = shot.origin
    origin = (x - 0.5 * seconds, y + 0.1 * math.sin(3 * seconds), 1.55 + 0.04 * math.sin(9 * seconds))
    target = (0.1 * math.sin(4 * seconds), 0.0, 0.95 + 0.05 * math.sin(5 * seconds))
    return placed(lens, origin, target, 0.03 * math.sin(6 * seconds))


def _matrix(camera: Camera) -> np.ndarray:
    """World-to-camera (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = camera.rotation, camera.translation
    return matrix
