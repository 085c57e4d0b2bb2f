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
import pickle
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from etl.datasets.threedpw.reader import CAMERA, sequence_key, sequence_name
from etl.demo import miniature, raw_media
from etl.demo.cameras import placed
from etl.demo.miniature import act, joints_of
from etl.demo.raw_joints import openpose_18, smpl_24
from etl.demo.recording import film
from etl.demo.scene import Actor, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey

Floats = NDArray[np.floating[Any]]

RATE: Final = 30
FOCAL: Final = (1962.0, 1969.0)  # px, of all phones of the release, nearly
PORTRAIT, LANDSCAPE = (1080, 1920), (1920, 1080)
BAD_POSE: Final = 2  # this frame's camera pose is wrong, and marked
UNSEEN: Final = 4  # in this frame the last person isn't detected


@dataclass(frozen=True)
class Shot:
    """One sequence: its split, and the width and height of the release's images.

    `people` are (motion, phase, (x, y)): what each does, and where in the room. The camera starts at `origin` (x, y).
    Places are in metres.
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
        write_images(folder, name, film(folder, name, key, moments))
        world = smpl_24(np.stack([joints_of(actors[who] for actors in cast) for who in range(len(cast[0]))]))
        seen = np.stack([camera.world_to_camera(world[:, number]) for number, camera in enumerate(cameras)], axis=1)
        poses2d = openpose_18(seen, cameras[0].project(seen))
        poses2d[-1, UNSEEN : UNSEEN + 1] = 0
        valid = np.ones(world.shape[:2], bool)
        valid[:, BAD_POSE : BAD_POSE + 1] = False
        (fx, fy), (cx, cy) = cameras[0].focal, cameras[0].center
        write_sequence(
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


def write_sequence(
    root: Path,
    split: str,
    name: str,
    *,
    joints: Floats,
    cam_poses: Floats,
    intrinsics: Floats,
    poses2d: Floats,
    campose_valid: NDArray[np.bool_] | None = None,
    shape_parameters: Sequence[int] = (),
) -> Path:
    """Write one sequence's pickle; return its path.

    Parameters
    ----------
    root : Path
        The dataset's root.
    split : {"train", "validation", "test"}
        Its folder.
    name : str
        Name of the sequence, ``downtown_walking_00``.
    joints : (P, F, 24, 3) float
        SMPL's joints of P people, world coordinates, metres.
    cam_poses : (F, 4, 4) float
        World-to-camera.
    intrinsics : (3, 3) float
        Pixels.
    poses2d : (P, F, 3, 18) float
        COCO_18 detections: x, y, confidence; zeros where there is none.
    campose_valid : (P, F) bool, optional
        All true by default.
    shape_parameters : sequence of int
        Number of betas of the first people: 10, or 300 as in much of the release. Further people have 10.
    """
    people, frames = joints.shape[:2]
    valid = np.ones((people, frames), bool) if campose_valid is None else campose_valid
    sizes = [*shape_parameters, *[10] * people][:people]
    values: dict[str, Any] = {
        "sequence": name,
        "poses": [np.zeros((frames, 72)) for _ in range(people)],
        "trans": [np.ascontiguousarray(person[:, 0]) for person in joints],
        "betas": [np.zeros(size) for size in sizes],
        "poses_60Hz": [np.zeros((2 * frames, 72)) for _ in range(people)],
        "trans_60Hz": [np.repeat(person[:, 0], 2, axis=0) for person in joints],
        "img_frame_ids": np.arange(0, 2 * frames, 2),
        "jointPositions": [person.reshape(frames, 72) for person in joints],
        "poses2d": list(poses2d),
        "cam_poses": np.asarray(cam_poses, np.float64),
        "campose_valid": [person.astype(np.int64) for person in valid],
        "cam_intrinsics": np.asarray(intrinsics, np.float64),
        "genders": ["m", "f"][:people],
    }
    path = root / "sequenceFiles" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(values))
    return path


def write_images(root: Path, name: str, frames: Iterable[NDArray[np.uint8]]) -> None:
    """Write RGB frames (H, W, 3) as ``imageFiles/<name>/image_00000.jpg`` and on."""
    raw_media.write_images(root / "imageFiles" / name, "image_{number:05d}.jpg", frames, first=0)


def python2_pickle(value: Any) -> bytes:
    """Dicts, lists, text, numbers and arrays as Python 2's pickle writes them with protocol 2."""
    return pickle.PROTO + b"\x02" + _python2(value) + pickle.STOP


def _python2(value: Any) -> bytes:
    """Opcodes that leave `value` on the stack; text and data are Python 2's byte strings."""
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(content) for key, content in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, list):
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_python2, value)) + pickle.APPENDS
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(map(_python2, value)) + pickle.TUPLE
    if isinstance(value, str | bytes):
        data = value.encode("latin-1") if isinstance(value, str) else value
        return pickle.BINSTRING + struct.pack("<i", len(data)) + data
    if value is None or isinstance(value, bool | float):
        return pickle.dumps(value, 2)[2:-1]  # without its frame: the protocol and the end
    if isinstance(value, int):
        return pickle.BININT + struct.pack("<i", value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _python2_array(value)
    raise TypeError(f"a miniature's pickle holds plain values and arrays, not {type(value).__name__}")


def _python2_array(array: NDArray[Any]) -> bytes:
    """An array as ``numpy.core.multiarray._reconstruct`` and a state, which is how numpy 1 reduced it."""
    order = "<" if array.dtype.itemsize > 1 else "|"
    dtype = _global("numpy", "dtype") + _python2((array.dtype.str[1:], 0, 1)) + pickle.REDUCE
    dtype += _python2((3, order, None, None, None, -1, -1, 0)) + pickle.BUILD
    arguments = pickle.MARK + _global("numpy", "ndarray") + _python2((0,)) + _python2("b") + pickle.TUPLE
    made = _global("numpy.core.multiarray", "_reconstruct") + arguments + pickle.REDUCE
    content = _python2(array.astype(array.dtype.newbyteorder("<")).tobytes())
    state = pickle.MARK + _python2(1) + _python2(array.shape) + dtype + pickle.NEWFALSE + content + pickle.TUPLE
    return made + state + pickle.BUILD


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode("ascii")
