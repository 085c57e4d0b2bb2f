"""Motions: smooth functions that give a pose, under Human3.6M's canonical action names.

Arguments are the seconds since the beginning, and the phase: where in the motion the person begins, in cycles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from etl.demo.figure import Direction, Pose

Motion = Callable[[float, float], Pose]


def _wave(seconds: float, period: float, phase: float = 0.0) -> float:
    return math.sin(2 * math.pi * (seconds / period + phase))


def _pulse(seconds: float, period: float, phase: float = 0.0) -> float:
    """0 to 1 and back, smoothly: 0 at cycles 0 and 1, near 1 between a quarter and three quarters."""
    return 0.5 + 0.5 * math.tanh(-2.2 * math.cos(2 * math.pi * (seconds / period + phase))) / math.tanh(2.2)


def _blend(a: Direction, b: Direction, weight: float) -> Direction:
    """Between two directions, at an even pace."""
    u, v = np.array(a) / np.linalg.norm(a), np.array(b) / np.linalg.norm(b)
    x, y, z = ((1 - weight) * u + weight * v).tolist()
    return x, y, z


def _standing(seconds: float, phase: float) -> Pose:
    """Standing at ease: a slow sway, the trunk turning a little, the head looking round."""
    sway, look = _wave(seconds, 3.1, phase), _wave(seconds, 4.3, phase)
    return Pose(
        spine=(0.02 * sway, 0.02, 1),
        head=(0.02 * sway, 0.06, 1),
        face=(0.25 * look, 1, 0),
        turn=0.35 * _wave(seconds, 7.0, phase),
        place=(0.05 * sway, 0.03 * look),
    )


def directions(seconds: float, phase: float) -> Pose:
    """Pointing the way with one arm after the other, to the side, forward and up."""
    base = _standing(seconds, phase)
    reach = _pulse(seconds, 2.6, phase)
    other = _pulse(seconds, 2.6, phase + 0.5)
    lift = 0.25 + 0.35 * _wave(seconds, 4.7, phase)
    return replace(
        base,
        right_upper_arm=_blend(base.right_upper_arm, (1.0, 0.45, lift), reach),
        right_forearm=_blend(base.right_forearm, (0.9, 0.55, lift + 0.15), reach),
        left_upper_arm=_blend(base.left_upper_arm, (-0.8, 0.75, 0.3 - 0.5 * lift), other),
        left_forearm=_blend(base.left_forearm, (-0.7, 0.9, 0.4 - 0.4 * lift), other),
    )


def walking(seconds: float, phase: float) -> Pose:
    """Walking round a circle in the middle of the room."""
    radius, speed, stride = 0.8, 1.1, 1.1
    along = speed * seconds / radius + 2 * math.pi * phase
    step = 2 * math.pi * (seconds / stride + phase)

    def leg(angle: float, out: float) -> tuple[Direction, Direction]:
        thigh = 0.42 * math.sin(angle) + 0.05
        knee = 0.10 + 0.85 * (0.5 + 0.5 * math.cos(angle + 0.35)) ** 2
        return (out, math.sin(thigh), -math.cos(thigh)), (0, math.sin(thigh - knee), -math.cos(thigh - knee))

    def arm(angle: float, out: float) -> tuple[Direction, Direction]:
        upper = -0.42 * math.sin(angle) - 0.03
        fore = upper + 0.35 - 0.2 * math.sin(angle)
        return (out, math.sin(upper), -math.cos(upper)), (0.4 * out, math.sin(fore), -math.cos(fore))

    right_thigh, right_shank = leg(step, 0.02)
    left_thigh, left_shank = leg(step + math.pi, -0.02)
    right_upper_arm, right_forearm = arm(step, 0.14)
    left_upper_arm, left_forearm = arm(step + math.pi, -0.14)
    return Pose(
        spine=(0.02 * math.cos(step), 0.05, 1),
        shoulders=(1, 0.10 * math.sin(step), 0),
        head=(0, 0.06, 1),
        right_upper_arm=right_upper_arm,
        right_forearm=right_forearm,
        left_upper_arm=left_upper_arm,
        left_forearm=left_forearm,
        right_thigh=right_thigh,
        right_shank=right_shank,
        left_thigh=left_thigh,
        left_shank=left_shank,
        turn=along,
        place=(radius * math.cos(along), radius * math.sin(along)),
    )


def greeting(seconds: float, phase: float) -> Pose:
    """Waving with the right hand, with the left hanging."""
    base = _standing(seconds, phase)
    swing = _wave(seconds, 0.9, phase)
    raised = 0.75 + 0.25 * _pulse(seconds, 5.0, phase)
    return replace(
        base,
        right_upper_arm=_blend(base.right_upper_arm, (0.85, 0.15, -0.2), raised),
        right_forearm=_blend(base.right_forearm, (0.25 + 0.4 * swing, 0.2, 1), raised),
        left_forearm=(-0.05, 0.3, -1),
    )


def posing(seconds: float, phase: float) -> Pose:
    """Shifting between a wide stance with open arms and a hand on the hip."""
    base = _standing(seconds, phase)
    open_, hip = _pulse(seconds, 4.0, phase), _pulse(seconds, 4.0, phase + 0.5)
    wide = 0.08 + 0.10 * open_
    return replace(
        base,
        right_upper_arm=_blend(base.right_upper_arm, (1, 0.1, 0.15), open_),
        right_forearm=_blend(base.right_forearm, (1, 0.25, 0.35), open_),
        left_upper_arm=_blend(base.left_upper_arm, (-0.9, -0.25, -0.9), hip),
        left_forearm=_blend(base.left_forearm, (0.75, 0.45, -0.55), hip),
        right_thigh=(wide, 0, -1),
        right_shank=(0.6 * wide, -0.05, -1),
        left_thigh=(-wide, 0, -1),
        left_shank=(-0.6 * wide, -0.05, -1),
    )


def taking_photo(seconds: float, phase: float) -> Pose:
    """Holding a camera before the face, lowering it now and then."""
    base = _standing(seconds, phase)
    held = 0.55 + 0.45 * _pulse(seconds, 3.4, phase)
    return replace(
        base,
        right_upper_arm=_blend(base.right_upper_arm, (0.15, 0.9, -0.35), held),
        right_forearm=_blend(base.right_forearm, (-0.45, 0.35, 0.9), held),
        left_upper_arm=_blend(base.left_upper_arm, (-0.15, 0.9, -0.35), held),
        left_forearm=_blend(base.left_forearm, (0.45, 0.35, 0.9), held),
    )


MOTIONS: Final[dict[str, Motion]] = {
    "Directions": directions,
    "Greeting": greeting,
    "Photo": taking_photo,
    "Posing": posing,
    "Walking": walking,
}
