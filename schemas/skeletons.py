"""Joint names, bones and the index maps between the skeletons of datasets and detectors.

Sources: MMPose's ``h36m.py``, ``coco.py`` and ``mpi_inf_3dhp.py`` dataset definitions; the official
readme of MPI-INF-3DHP; SMPL's joint list; the official tools of Fit3D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "COCO_17",
    "COCO_TO_H36M",
    "H36M_17",
    "H36M_32_TO_17",
    "LIMB_JOINTS",
    "Skeleton",
]


@dataclass(frozen=True)
class Skeleton:
    """A named, ordered list of joints.

    Parameters
    ----------
    name : str
        Name of the convention.
    joints : tuple of str
        Joint names in storage order.
    bones : tuple of (int, int)
        Pairs (parent, child) of joint indices, for drawing and bone lengths.
    left, right : tuple of int
        Indices of the left joints and of their mirror images, pairwise.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Index of the joint named `joint`."""
        return self.joints.index(joint)


H36M_17: Final = Skeleton(
    name="h36m17",
    joints=(
        "pelvis", "right_hip", "right_knee", "right_foot", "left_hip", "left_knee", "left_foot",
        "spine", "thorax", "neck_base", "head",
        "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
    ),
    bones=(
        (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (9, 10),
        (8, 11), (11, 12), (12, 13), (8, 14), (14, 15), (15, 16),
    ),
    left=(4, 5, 6, 11, 12, 13),
    right=(1, 2, 3, 14, 15, 16),
)  # fmt: skip

COCO_17: Final = Skeleton(
    name="coco17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    bones=(
        (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12),
        (11, 13), (13, 15), (12, 14), (14, 16),
    ),
    left=(1, 3, 5, 7, 9, 11, 13, 15),
    right=(2, 4, 6, 8, 10, 12, 14, 16),
)  # fmt: skip

# Each H36M joint is the mean of these COCO joints; the spine is the mean of pelvis and thorax.
# Equal to MMPose's convert_keypoint_definition for 'coco'.
COCO_TO_H36M: Final[tuple[tuple[int, ...], ...]] = (
    (11, 12), (12,), (14,), (16,), (11,), (13,), (15,), (11, 12, 5, 6), (5, 6), (0,), (1, 2),
    (5,), (7,), (9,), (6,), (8,), (10,),
)  # fmt: skip

# Joints of H36M_17 that are COCO joints too: hips, knees, feet, shoulders, elbows, wrists.
LIMB_JOINTS: Final[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16)

# Indices of H36M_17's joints among Human3.6M's own 32.
H36M_32_TO_17: Final[tuple[int, ...]] = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
