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
Named = dict[str, Floats]


def facing(joints: Floats) -> Floats:
    """Unit vectors (..., 3) to the front of people given as H36M_17 joints (..., 17, 3), right-handed axes."""
    names = ("left_hip", "right_hip", "thorax", "pelvis")
    left, right, thorax, pelvis = (joints[..., H36M_17.index(name), :] for name in names)
    front = np.cross(left - right, thorax - pelvis)
    return front / np.linalg.norm(front, axis=-1, keepdims=True)


def smpl_24(joints: Floats) -> Floats:
    """SMPL's 24 joints (..., 24, 3) of H36M_17 joints (..., 17, 3) in metres.

    The head is placed so that SMPL_HEAD_TOP finds the head's top again.
    """
    raw = _named(joints, SMPL_24, SMPL_24_TO_H36M)
    raw["head"] = raw["neck"] + (raw["head"] - raw["neck"]) / SMPL_HEAD_TOP
    raw["spine1"] = (raw["pelvis"] + raw["spine2"]) / 2
    raw["spine3"] = (raw["spine2"] + raw["neck"]) / 2
    for side in ("left", "right"):
        raw[f"{side}_collar"] = (raw["spine3"] + raw[f"{side}_shoulder"]) / 2
    _add_hands_and_feet(raw, facing(joints), ("hand",), {"foot": 0.13})
    return _stacked(raw, SMPL_24)


def mpi_inf_3dhp_28(joints: Floats) -> Floats:
    """MPI-INF-3DHP's 28 joints (..., 28, 3) of H36M_17 joints (..., 17, 3) in metres."""
    raw = _named(joints, MPI_INF_3DHP_28, MPI_INF_3DHP_28_TO_H36M)
    for name, share in (("spine2", 0.4), ("spine3", 0.6), ("spine4", 0.8)):
        raw[name] = raw["spine"] + share * (raw["neck"] - raw["spine"])
    for side in ("left", "right"):
        raw[f"{side}_clavicle"] = (raw["neck"] + raw[f"{side}_shoulder"]) / 2
    _add_hands_and_feet(raw, facing(joints), ("hand",), {"foot": 0.1, "toe": 0.17})
    return _stacked(raw, MPI_INF_3DHP_28)


def imar_25(joints: Floats) -> Floats:
    """Fit3D's 25 joints (..., 25, 3) of H36M_17 joints (..., 17, 3) in metres."""
    raw = _named(joints, IMAR_25, IMAR_25_TO_H36M)
    _add_hands_and_feet(raw, facing(joints), ("thumb", "fingers"), {"foot": 0.1, "toe": 0.17})
    return _stacked(raw, IMAR_25)


def openpose_18(smpl: Floats, pixels: Floats) -> Floats:
    """A detection (..., 3, 18) of x, y, confidence as 3DPW's ``poses2d`` has it, of projected SMPL joints.

    `smpl` (..., 24, 3) is in camera coordinates: a joint with a depth above 0 is seen. `pixels` (..., 24, 2) is where
    the joints are in the image. Eyes and ears, which SMPL doesn't have, are absent: zeros, as OpenPose gives them.
    """
    found = np.zeros((*pixels.shape[:-2], len(COCO_18), 3))
    for place, name in enumerate(COCO_18.joints):
        source = "head" if name == "nose" else name
        if source in SMPL_24.joints:
            found[..., place, :2] = pixels[..., SMPL_24.index(source), :]
            found[..., place, 2] = np.where(smpl[..., SMPL_24.index(source), 2] > 0, 0.9, 0)
    return np.swapaxes(found, -1, -2)


def _named(joints: Floats, skeleton: Skeleton, to_h36m: tuple[int, ...]) -> Named:
    """Return H36M_17 joints by the names that the release's skeleton has for them."""
    return {skeleton.joints[source]: joints[..., i, :] for i, source in enumerate(to_h36m)}


def _add_hands_and_feet(raw: Named, front: Floats, hands: tuple[str, ...], feet: dict[str, float]) -> None:
    """Add joints of the hands 40 % of the forearm beyond the wrist, and of the feet so many metres before the ankle."""
    for side in ("left", "right"):
        elbow, wrist, ankle = (raw[f"{side}_{name}"] for name in ("elbow", "wrist", "ankle"))
        raw |= {f"{side}_{name}": wrist + 0.4 * (wrist - elbow) for name in hands}
        raw |= {f"{side}_{name}": ankle + length * front for name, length in feet.items()}


def _stacked(raw: Named, skeleton: Skeleton) -> Floats:
    return np.stack([raw[name] for name in skeleton.joints], axis=-2)
