"""Known faults of annotations, and where the joints would be under each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from etl.alignment.tracks import Floats, Ints, Track, sample, step_of
from schemas.skeletons import H36M_17

FAULTS: Final[dict[str, str]] = {
    "shift": "annotations of other moments: all times are shifted",
    "rate": "annotations of another frame rate",
    "left_right": "left and right are exchanged",
    "left_right_arms": "left and right arms are exchanged",
    "left_right_legs": "left and right legs are exchanged",
    "camera": "annotations of another camera",
    "misfit": "annotations that don't fit, and no fault that explains it",
    "depth_unit": "depths in millimetres meet depths in metres",
}
ROOTS: Final = {"left_right_arms": (11, 14), "left_right_legs": (4, 1)}
"""Exchanges of a part, with its left and right root joint (shoulder or hip)."""
SHIFTS: Final = 5  # frames, and rows of the annotation, to try to either side
APART: Final = 0.06  # of the person's size: shoulders or hips that are nearer are seen from the side


def _mirror(joints: range) -> Ints:
    """Permutation (17,) that exchanges left and right among some joints."""
    order = np.arange(len(H36M_17))
    for left, right in zip(H36M_17.left, H36M_17.right, strict=True):
        if left in joints:
            order[[left, right]] = right, left
    return order


_MIRRORS: Final = {
    "left_right": _mirror(range(17)),
    "left_right_legs": _mirror(range(7)),
    "left_right_arms": _mirror(range(11, 17)),
}


@dataclass(frozen=True)
class Hypothesis:
    """A way to read the annotations: frame f shows what is annotated for rate · f + shift.

    Parameters
    ----------
    fault : str
        A key of FAULTS, or ``identity``.
    shift : int
        Frames of the media.
    rate : float
        Factor.
    camera : str
        Camera whose annotations are used.
    about : bool
        The shift is not exact to the frame.
    """

    fault: str = "identity"
    shift: int = 0
    rate: float = 1.0
    camera: str = ""
    about: bool = False

    def __str__(self) -> str:
        if self.fault == "shift":
            when = "later" if self.shift > 0 else "earlier"
            frames = "frame" if abs(self.shift) == 1 else "frames"
            return f"the frames show what is annotated {'about ' * self.about}{abs(self.shift)} {frames} {when}"
        if self.fault == "rate":
            offset = f" (shifted by {self.shift})" if self.shift else ""
            return f"frame f shows what is annotated for {self.rate:g} · f{offset}"
        if self.fault == "camera":
            return f"the annotations of camera {self.camera} fit"
        return FAULTS.get(self.fault, "annotations as they are")


IDENTITY: Final = Hypothesis()


def shifts(track: Track) -> list[int]:
    """Shifts to try: up to ±5 frames of the media, and ±5 rows of an annotation that skips frames."""
    within = range(-SHIFTS, SHIFTS + 1)
    return sorted({*within, *(step_of(track) * k for k in within)}, key=abs)


def exchanges(cameras: Mapping[str, Track]) -> Iterator[Hypothesis]:
    """Yield the exchanges of sides and of cameras."""
    yield from (Hypothesis(fault) for fault in _MIRRORS)
    yield from (Hypothesis("camera", camera=name) for name in sorted(cameras))


def annotated_under(hypothesis: Hypothesis, track: Track, cameras: Mapping[str, Track], rows: Ints) -> Floats:
    """Joints (M, 17, 2) px of `rows` (M,) under a hypothesis; NaN where it gives none."""
    if hypothesis.fault in _MIRRORS:
        joints = track.annotated[rows][:, _MIRRORS[hypothesis.fault]]
        if hypothesis.fault in ROOTS:  # a side view cannot tell
            left, right = ROOTS[hypothesis.fault]
            apart = np.linalg.norm(joints[:, left] - joints[:, right], axis=-1) / track.size[rows]
            joints[~(apart > APART)] = np.nan
        return joints
    source = cameras[hypothesis.camera] if hypothesis.fault == "camera" else track
    first = track.frame.min()
    moments = first + hypothesis.rate * (track.frame[rows] - first) + hypothesis.shift
    return sample(source, track.person[rows], moments)
