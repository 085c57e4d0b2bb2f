"""The figure's skeleton: from the directions of its limbs to joints whose places are known exactly.

The body's own frame has x to the person's right, y forward and z up, in metres, with the floor at z = 0; the world's
frame is the body's after a turn about z and a step on the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.skeletons import COCO_17, H36M_17, H36M_32_TO_17

Floats = NDArray[np.floating[Any]]
Direction = tuple[float, float, float]

# Lengths of a person of 1.75 m, metres; all others are scaled.
STANDARD_HEIGHT: Final = 1.75
HIP, THIGH, SHANK, ANKLE = 0.115, 0.435, 0.42, 0.085
SPINE, CHEST, HEAD_TOP = 0.235, 0.255, 0.27
SHOULDER, SHOULDER_DROP, UPPER_ARM, FOREARM, HAND, FOOT = 0.165, 0.035, 0.285, 0.25, 0.16, 0.14

# Human3.6M's 32 joints beyond the 17: the duplicates that the release has, and what the figure has there.
_DUPLICATES: Final = {11: 0, 16: 13, 24: 13, 20: 19, 28: 27}
_EXTREMITIES: Final = {
    "right_toe": (4, 5),
    "left_toe": (9, 10),
    "left_fingertips": (21, 22, 23),
    "right_fingertips": (29, 30, 31),
}


@dataclass(frozen=True)
class Pose:
    """Directions of the limbs in the body's frame (any length), and where the body stands.

    Parameters
    ----------
    spine, head : (float, float, float)
        Up along the trunk, and along the head.
    shoulders : (float, float, float)
        From the left shoulder to the right; made square to the spine.
    face : (float, float, float)
        Where the face looks.
    right_upper_arm, right_forearm, ..., left_shank : (float, float, float)
        Along the limb, away from the trunk.
    turn : float
        Angle about the world's z, rad, anticlockwise from above; at 0 the person faces the world's +y.
    place : (float, float)
        x and y of the pelvis in the world, metres.
    """

    spine: Direction = (0, 0, 1)
    shoulders: Direction = (1, 0, 0)
    head: Direction = (0, 0.05, 1)
    face: Direction = (0, 1, 0)
    right_upper_arm: Direction = (0.15, 0, -1)
    right_forearm: Direction = (0.05, 0.15, -1)
    left_upper_arm: Direction = (-0.15, 0, -1)
    left_forearm: Direction = (-0.05, 0.15, -1)
    right_thigh: Direction = (0.03, 0, -1)
    right_shank: Direction = (0, -0.03, -1)
    left_thigh: Direction = (-0.03, 0, -1)
    left_shank: Direction = (0, -0.03, -1)
    turn: float = 0.0
    place: tuple[float, float] = (0.0, 0.0)

    @property
    def rotation(self) -> Floats:
        """Rotation (3, 3) from the body's frame to the world's."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    @property
    def translation(self) -> Floats:
        """Translation (3,) from the body's frame to the world's, metres."""
        return np.array([*self.place, 0.0])


@dataclass(frozen=True)
class Skeleton:
    """A posed skeleton in the body's own frame.

    Parameters
    ----------
    joints : dict of str to (3,) float
        By H36M_17's and COCO_17's names and the extremities (toes, fingertips), metres.
    size : float
        The person's height over 1.75 m.
    up, right, forward : (3,) float
        Unit axes of the trunk.
    skull : (3,) float
        Centre of the skull, metres.
    head : (3, 3) float
        Unit axes of the head, in rows: to the person's right, forward, up.
    """

    joints: dict[str, Floats]
    size: float
    up: Floats
    right: Floats
    forward: Floats
    skull: Floats
    head: Floats

    @property
    def h36m(self) -> Floats:
        """(17, 3) metres, in H36M_17's order."""
        return np.stack([self.joints[name] for name in H36M_17.joints])

    @property
    def coco(self) -> Floats:
        """(17, 3) metres, in COCO_17's order."""
        return np.stack([self.joints[name] for name in COCO_17.joints])

    @property
    def h36m_32(self) -> Floats:
        """(32, 3) metres: Human3.6M's own joints, in the release's order."""
        joints = np.full((32, 3), np.nan)
        joints[list(H36M_32_TO_17)] = self.h36m
        for name, places in _EXTREMITIES.items():
            joints[list(places)] = self.joints[name]
        for place, source in _DUPLICATES.items():
            joints[place] = joints[source]
        return joints


def unit(vector: Any) -> Floats:
    """`vector` over its length."""
    v = np.asarray(vector, np.float64)
    return v / np.linalg.norm(v)


def skeleton(pose: Pose, height: float = STANDARD_HEIGHT) -> Skeleton:
    """Joints of a person of `height` metres in `pose`, in the body's own frame.

    The lower ankle stands at its height above the floor. Neck base and head top are Human3.6M's points (near the nose,
    top of the skull); eyes, ears and nose are on the surface of the head, where COCO's annotators click.
    """
    k = height / STANDARD_HEIGHT
    up = unit(pose.spine)
    forward = unit(np.cross(up, pose.shoulders))
    right = np.cross(forward, up)
    j: dict[str, Floats] = {"pelvis": np.zeros(3)}
    j["spine"] = SPINE * k * up
    j["thorax"] = j["spine"] + CHEST * k * unit(up + np.array([0, 0.02, 0]))
    z, face = unit(pose.head), np.array(pose.face, np.float64)
    y = unit(face - z * (face @ z))
    x = np.cross(y, z)
    skull = j["thorax"] + k * (0.185 * z + 0.022 * y)
    j["neck_base"] = j["thorax"] + 0.115 * k * unit(z + np.array([0, 0.35, 0]))
    j["head"] = j["thorax"] + HEAD_TOP * k * z
    j["nose"] = skull + k * (0.116 * y - 0.022 * z)
    for side, sign in (("right", 1), ("left", -1)):
        thigh, shank, upper_arm, forearm = (
            unit(getattr(pose, f"{side}_{limb}")) for limb in ("thigh", "shank", "upper_arm", "forearm")
        )
        down, ahead = foot_axes(getattr(pose, f"{side}_shank"), sign)
        j[f"{side}_hip"] = np.array([sign * HIP * k, 0, 0])
        j[f"{side}_knee"] = j[f"{side}_hip"] + THIGH * k * thigh
        j[f"{side}_foot"] = j[f"{side}_ankle"] = j[f"{side}_knee"] + SHANK * k * shank
        j[f"{side}_toe"] = j[f"{side}_foot"] + FOOT * k * ahead + 0.05 * k * down
        j[f"{side}_shoulder"] = j["thorax"] + sign * SHOULDER * k * right - SHOULDER_DROP * k * up
        j[f"{side}_elbow"] = j[f"{side}_shoulder"] + UPPER_ARM * k * upper_arm
        j[f"{side}_wrist"] = j[f"{side}_elbow"] + FOREARM * k * forearm
        j[f"{side}_fingertips"] = j[f"{side}_wrist"] + HAND * k * forearm
        j[f"{side}_eye"] = skull + k * (sign * 0.031 * x + 0.072 * y + 0.008 * z)
        j[f"{side}_ear"] = skull + k * (sign * 0.087 * x - 0.012 * y - 0.012 * z)
    lift = np.array([0, 0, ANKLE * k - min(j["right_foot"][2], j["left_foot"][2])])
    joints = {name: place + lift for name, place in j.items()}
    return Skeleton(joints, k, up, right, forward, skull + lift, np.stack([x, y, z]))


def foot_axes(shank: Direction, sign: int) -> tuple[Floats, Floats]:
    """Unit axes of a foot in the body's frame, down to the sole and ahead to the toes; it is square to the shank.

    `shank` is the direction from the knee to the ankle. `sign` is 1 for the right foot and -1 for the left: toes point
    a little outwards.
    """
    down = unit(shank)
    square = np.cross([1, 0, 0], down)
    ahead = np.array([0.12 * sign, 0, 0]) + square * (1 if square[1] > 0 else -1)
    return down, unit(ahead - down * (ahead @ down))
