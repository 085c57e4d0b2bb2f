"""The releases' own skeletons and their index maps to and from H36M_17.

Sources: SMPL's joint list; OpenPose's COCO output; the official readme of MPI-INF-3DHP and MMPose's
``mpi_inf_3dhp.py``; the official joint list of IMAR's Fit3D. A map is used as ``points[:, MAP]``: entry i
is the source's index of target joint i.
"""

from __future__ import annotations

from typing import Final

from schemas.skeletons import Skeleton

__all__ = [
    "COCO_18",
    "COCO_18_FROM_SMPL_24",
    "H36M_TO_MPI_INF_3DHP_17",
    "IMAR_25",
    "IMAR_25_TO_H36M",
    "MPI_INF_3DHP_17",
    "MPI_INF_3DHP_17_TO_H36M",
    "MPI_INF_3DHP_28",
    "MPI_INF_3DHP_28_TO_17",
    "MPI_INF_3DHP_28_TO_H36M",
    "SMPL_24",
    "SMPL_24_TO_H36M",
    "SMPL_HEAD_TOP",
]


def _skeleton(name: str, joints: str, bones: tuple[tuple[int, int], ...]) -> Skeleton:
    """Build a skeleton, pairing joints by the names ``left_*`` and ``right_*``."""
    names = tuple(joints.split())
    left = tuple(i for i, joint in enumerate(names) if joint.startswith("left_"))
    right = tuple(names.index(names[i].replace("left_", "right_")) for i in left)
    return Skeleton(name, names, bones, left, right)


SMPL_24: Final = _skeleton(
    "smpl24",
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot right_foot "
    "neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hand right_hand",
    (
        (0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 8), (6, 9), (7, 10), (8, 11), (9, 12),
        (9, 13), (9, 14), (12, 15), (13, 16), (14, 17), (16, 18), (17, 19), (18, 20), (19, 21), (20, 22), (21, 23),
    ),
)  # fmt: skip

# SMPL has no joint at the top of the head: entry 10 repeats the head (15) and is then replaced by
# neck + SMPL_HEAD_TOP * (head - neck).
SMPL_24_TO_H36M: Final = (0, 2, 5, 8, 1, 4, 7, 6, 12, 15, 15, 16, 18, 20, 17, 19, 21)
SMPL_HEAD_TOP: Final = 1.9

COCO_18: Final = _skeleton(
    "coco18",
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear",
    (
        (1, 0), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
        (12, 13), (0, 14), (0, 15), (14, 16), (15, 17),
    ),
)  # fmt: skip

# Pairs (COCO_18, SMPL_24) of joints that both skeletons have at nearly the same place on the body.
COCO_18_FROM_SMPL_24: Final = ((3, 19), (4, 21), (6, 18), (7, 20), (9, 5), (10, 8), (12, 4), (13, 7))

MPI_INF_3DHP_28: Final = _skeleton(
    "mpi_inf_3dhp28",
    "spine3 spine4 spine2 spine pelvis neck head head_top "
    "left_clavicle left_shoulder left_elbow left_wrist left_hand "
    "right_clavicle right_shoulder right_elbow right_wrist right_hand "
    "left_hip left_knee left_ankle left_foot left_toe right_hip right_knee right_ankle right_foot right_toe",
    (
        (4, 3), (3, 2), (2, 0), (0, 1), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (10, 11), (11, 12),
        (1, 13), (13, 14), (14, 15), (15, 16), (16, 17), (4, 18), (18, 19), (19, 20), (20, 21), (21, 22),
        (4, 23), (23, 24), (24, 25), (25, 26), (26, 27),
    ),
)  # fmt: skip

# The order of the test set, and of MMPose's annotation files.
MPI_INF_3DHP_17: Final = _skeleton(
    "mpi_inf_3dhp17",
    "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle pelvis spine head",
    (
        (14, 8), (8, 9), (9, 10), (14, 11), (11, 12), (12, 13), (14, 15), (15, 1), (1, 16), (16, 0),
        (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7),
    ),
)  # fmt: skip

MPI_INF_3DHP_28_TO_17: Final = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
MPI_INF_3DHP_28_TO_H36M: Final = (4, 23, 24, 25, 18, 19, 20, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16)
MPI_INF_3DHP_17_TO_H36M: Final = (14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)
# Inverse: ``h36m[:, H36M_TO_MPI_INF_3DHP_17]`` is in the order of MMPose's files.
H36M_TO_MPI_INF_3DHP_17: Final = (10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9)

# Legs are left-first, unlike H36M_17: the first 17 joints are not H36M_17.
IMAR_25: Final = _skeleton(
    "imar25",
    "pelvis left_hip left_knee left_ankle right_hip right_knee right_ankle spine thorax neck head_top "
    "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist "
    "left_foot left_toe right_foot right_toe left_thumb left_fingers right_thumb right_fingers",
    (
        (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (9, 10),
        (8, 11), (11, 12), (12, 13), (8, 14), (14, 15), (15, 16),
        (3, 17), (17, 18), (6, 19), (19, 20), (13, 21), (13, 22), (16, 23), (16, 24),
    ),
)  # fmt: skip
IMAR_25_TO_H36M: Final = (0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
