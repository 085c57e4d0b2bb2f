"""How annotations may have to be read: each known fault as a rule that says where the joints would be under it."""

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
    "x_y": "x and y are exchanged",
    "scale": "annotations of an image of another size, or moved in the image",
    "camera": "annotations of another camera",
    "misfit": "annotations that don't fit, and no fault that explains it",
    "depth_unit": "depths in millimetres meet depths in metres",
}
ROOTS: Final = {"left_right_arms": (11, 14), "left_right_legs": (4, 1)}
"""The exchanges of a part, with left and right shoulder or hip, between which a side view leaves no distance."""
SHIFTS: Final = 5  # frames, and rows of the annotation, that are tried to either side
FITTING: Final = 20  # rounds of reweighting; half of them bring the scale to 1e-3
APART: Final = 0.06  # of the person's size: shoulders or hips that are nearer are seen from the side


def _mirror(joints: range) -> Ints:
    """Order (17,) that exchanges left and right among some joints."""
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
    """How the annotation would have to be read: the frame f shows what is annotated for rate · f + shift.

    Parameters
    ----------
    fault : str
        A key of FAULTS, or ``identity``.
    shift : int
        Frames of the media.
    rate : float
        Factor.
    camera : str
        Whose annotations.
    about : bool
        The shift isn't known to the frame.
    scale : float
        Factor of the annotated joints in the image.
    offset : (float, float)
        px that are added after that.
    """

    fault: str = "identity"
    shift: int = 0
    rate: float = 1.0
    camera: str = ""
    about: bool = False
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)

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
        if self.fault == "scale":
            x, y = self.offset
            return f"the annotations fit when put at scale x{self.scale:.3g}, offset ({x:+.0f}, {y:+.0f}) px"
        return FAULTS.get(self.fault, "annotations as they are")


IDENTITY: Final = Hypothesis()


def shifts(track: Track) -> list[int]:
    """Shifts that are tried: up to ±5 frames of the media, and ±5 rows of the annotation where it skips frames."""
    within = range(-SHIFTS, SHIFTS + 1)
    return sorted({*within, *(step_of(track) * k for k in within)}, key=abs)


def exchanges(cameras: Mapping[str, Track]) -> Iterator[Hypothesis]:
    """Every fault of position that isn't one of time, and has nothing to be fitted."""
    yield from (Hypothesis(fault) for fault in (*_MIRRORS, "x_y"))
    yield from (Hypothesis("camera", camera=name) for name in sorted(cameras))


def scales(detected: Floats, annotated: Floats) -> list[Hypothesis]:
    """Other places of the annotation in the image: twice as large, half as large, and what fits best.

    Parameters
    ----------
    detected, annotated : (N, J, 2) float64
        px; NaN where there is none.
    """
    known = [Hypothesis("scale", scale=scale) for scale in (2.0, 0.5)]
    told = np.isfinite(detected + annotated).all(-1)
    found, true = detected[told], annotated[told]
    if not len(found) or not np.ptp(true, axis=0).any():
        return known
    # Least absolute distances by reweighting (Weiszfeld 1937), so that wrong joints don't pull.
    weights, scale, offset = np.ones(len(found)), 1.0, np.zeros(2)
    for _ in range(FITTING):
        share = weights[:, None] / weights.sum()
        middle, centre = (share * found).sum(0), (share * true).sum(0)
        scale = float((share * (found - middle) * (true - centre)).sum() / (share * (true - centre) ** 2).sum())
        offset = middle - scale * centre
        distance = np.linalg.norm(found - scale * true - offset, axis=1)
        weights = 1 / np.maximum(distance, 0.1 * np.median(distance) + 1e-9)
    return [*known, Hypothesis("scale", scale=scale, offset=(float(offset[0]), float(offset[1])))]


def annotated_under(hypothesis: Hypothesis, track: Track, cameras: Mapping[str, Track], rows: Ints) -> Floats:
    """Where the joints of `rows` (M,) would be under a hypothesis: (M, 17, 2) px, NaN where it says nothing."""
    if hypothesis.fault in _MIRRORS:
        joints = track.annotated[rows][:, _MIRRORS[hypothesis.fault]]
        if hypothesis.fault in ROOTS:  # where a side view would make it a guess, it says nothing
            left, right = ROOTS[hypothesis.fault]
            apart = np.linalg.norm(joints[:, left] - joints[:, right], axis=-1) / track.size[rows]
            joints[~(apart > APART)] = np.nan
        return joints
    if hypothesis.fault == "x_y":
        return track.annotated[rows][..., ::-1]
    if hypothesis.fault == "scale":
        return np.asarray(hypothesis.scale * track.annotated[rows] + np.array(hypothesis.offset), np.float64)
    source = cameras[hypothesis.camera] if hypothesis.fault == "camera" else track
    first = track.frame.min()
    moments = first + hypothesis.rate * (track.frame[rows] - first) + hypothesis.shift
    return sample(source, track.person[rows], moments)
