"""Writes 3DPW's raw layout: ``sequenceFiles/<split>/<sequence>.pkl`` and ``imageFiles/<sequence>/``.

The pickles are those of Python 2: protocol 2, byte strings, ``numpy.core`` and ``__builtin__``.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo import raw_media

Floats = NDArray[np.floating[Any]]


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
