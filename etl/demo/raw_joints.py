"""The releases' own joints, made from H36M_17: what a miniature's raw files hold.

The H36M_17 joints are put where the release has them; the others are placed plausibly (feet point to
the front, hands go on from the forearm). Reading a miniature gives the H36M_17 joints back exactly, but for
3DPW's neck_base, which SMPL derives from neck and head top.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.skeletons import H36M_17, Skeleton
from schemas.skeletons_raw import (
    COCO_18,
    IMAR_25,
    IMAR_25_TO_H36M,
    MPI_INF_3DHP_28,
    MPI_INF_3DHP_28_TO_H36M,
    SMPL_24,
    SMPL_24_TO_H36M,
    SMPL_HEAD_TOP,
)

Floats = NDArray[np.float64]


def facing(joints: Floats) -> Floats:
    """Unit vectors (..., 3) to the front of people given as H36M_17 joints (..., 17, 3), right-handed axes."""
    across = joints[..., H36M_17.index("left_hip"), :] - joints[..., H36M_17.index("right_hip"), :]
    up = joints[..., H36M_17.index("thorax"), :] - joints[..., H36M_17.index("pelvis"), :]
    front = np.cross(across, up)
    return front / np.linalg.norm(front, axis=-1, keepdims=True)


def smpl_24(joints: Floats) -> Floats:
    """SMPL's 24 joints (..., 24, 3) of H36M_17 joints (..., 17, 3) in metres.

    The head is placed so that SMPL_HEAD_TOP finds the head's top again.
    """
    raw = _scattered(joints, SMPL_24, SMPL_24_TO_H36M)
    at = SMPL_24.index
    neck = joints[..., H36M_17.index("thorax"), :]
    raw[..., at("head"), :] = neck + (joints[..., H36M_17.index("head"), :] - neck) / SMPL_HEAD_TOP
    raw[..., at("spine1"), :] = (raw[..., at("pelvis"), :] + raw[..., at("spine2"), :]) / 2
    raw[..., at("spine3"), :] = (raw[..., at("spine2"), :] + raw[..., at("neck"), :]) / 2
    for side in ("left", "right"):
        raw[..., at(f"{side}_collar"), :] = (raw[..., at("spine3"), :] + raw[..., at(f"{side}_shoulder"), :]) / 2
        _extend(raw, SMPL_24, f"{side}_elbow", f"{side}_wrist", (f"{side}_hand",))
    _put_feet(raw, joints, SMPL_24, {"foot": 0.13})
    return raw


def mpi_inf_3dhp_28(joints: Floats) -> Floats:
    """MPI-INF-3DHP's 28 joints (..., 28, 3) of H36M_17 joints (..., 17, 3) in metres."""
    raw = _scattered(joints, MPI_INF_3DHP_28, MPI_INF_3DHP_28_TO_H36M)
    at = MPI_INF_3DHP_28.index
    spine, neck = raw[..., at("spine"), :], raw[..., at("neck"), :]
    for name, share in (("spine2", 0.4), ("spine3", 0.6), ("spine4", 0.8)):
        raw[..., at(name), :] = spine + share * (neck - spine)
    for side in ("left", "right"):
        raw[..., at(f"{side}_clavicle"), :] = (neck + raw[..., at(f"{side}_shoulder"), :]) / 2
        _extend(raw, MPI_INF_3DHP_28, f"{side}_elbow", f"{side}_wrist", (f"{side}_hand",))
    _put_feet(raw, joints, MPI_INF_3DHP_28, {"foot": 0.1, "toe": 0.17})
    return raw


def imar_25(joints: Floats) -> Floats:
    """Fit3D's 25 joints (..., 25, 3) of H36M_17 joints (..., 17, 3) in metres."""
    raw = _scattered(joints, IMAR_25, IMAR_25_TO_H36M)
    for side in ("left", "right"):
        _extend(raw, IMAR_25, f"{side}_elbow", f"{side}_wrist", (f"{side}_thumb", f"{side}_fingers"))
    _put_feet(raw, joints, IMAR_25, {"foot": 0.1, "toe": 0.17})
    return raw


def openpose_18(smpl: Floats, pixels: Floats, confidence: float = 0.9) -> Floats:
    """A detection (..., 3, 18) of x, y, confidence as 3DPW's ``poses2d`` has it, of projected SMPL joints.

    Parameters
    ----------
    smpl : (..., 24, 3) float
        SMPL's joints in camera coordinates; which joints are seen follows from their depth.
    pixels : (..., 24, 2) float
        Where they are in the image.

    Notes
    -----
    Eyes and ears, which SMPL doesn't have, are absent: zeros, as OpenPose gives them.
    """
    found = np.zeros((*pixels.shape[:-2], len(COCO_18), 3))
    for place, name in enumerate(COCO_18.joints):
        source = {"nose": "head"}.get(name, name)
        if source in SMPL_24.joints:
            found[..., place, :2] = pixels[..., SMPL_24.index(source), :]
            found[..., place, 2] = np.where(smpl[..., SMPL_24.index(source), 2] > 0, confidence, 0)
    return np.swapaxes(found, -1, -2)


def _scattered(joints: Floats, skeleton: Skeleton, to_h36m: tuple[int, ...]) -> Floats:
    """Raw joints with H36M_17's put where the release's map takes them from; NaN elsewhere."""
    raw = np.full((*joints.shape[:-2], len(skeleton), 3), np.nan)
    raw[..., list(to_h36m), :] = joints
    return raw


def _extend(raw: Floats, skeleton: Skeleton, above: str, below: str, names: tuple[str, ...]) -> None:
    """Put joints 40 % of the limb's length beyond its end, in place."""
    start, end = raw[..., skeleton.index(above), :], raw[..., skeleton.index(below), :]
    for name in names:
        raw[..., skeleton.index(name), :] = end + 0.4 * (end - start)


def _put_feet(raw: Floats, joints: Floats, skeleton: Skeleton, lengths: dict[str, float]) -> None:
    """Put the joints of both feet in front of the ankles, in place."""
    for side in ("left", "right"):
        ankle = joints[..., H36M_17.index(f"{side}_foot"), :]
        for name, length in lengths.items():
            raw[..., skeleton.index(f"{side}_{name}"), :] = ankle + length * facing(joints)
