from __future__ import annotations

import numpy as np
import pytest

from etl.stages.blocks.skeleton import coco_to_h36m
from schemas.skeletons import COCO_17, H36M_17


def named(**positions: tuple[float, float]) -> np.ndarray:
    """COCO joints at the positions given by name, elsewhere far away."""
    keypoints = np.full((17, 2), 1e4, np.float32)
    for name, position in positions.items():
        keypoints[COCO_17.index(name)] = position
    return keypoints


@pytest.mark.parametrize(
    ("joint", "sources", "expected"),
    [
        ("pelvis", {"left_hip": (10, 20), "right_hip": (30, 40)}, (20, 30)),
        ("thorax", {"left_shoulder": (1, 2), "right_shoulder": (5, 4)}, (3, 3)),
        (
            "spine",
            {"left_hip": (10, 20), "right_hip": (30, 40), "left_shoulder": (1, 2), "right_shoulder": (5, 4)},
            (11.5, 16.5),
        ),
        ("neck_base", {"nose": (7, 8)}, (7, 8)),
        ("head", {"left_eye": (2, 3), "right_eye": (4, 6)}, (3, 4.5)),
    ],
)
def test_synthesised_joints_are_means_worked_out_by_hand(joint, sources, expected):
    joints, _ = coco_to_h36m(named(**sources), np.ones(17))
    assert joints[H36M_17.index(joint)].tolist() == list(expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("h36m", "coco"),
    [("hip", "hip"), ("knee", "knee"), ("foot", "ankle"), ("shoulder", "shoulder"), ("elbow", "elbow"),
     ("wrist", "wrist")],
)  # fmt: skip
def test_limb_joints_keep_their_side(side, h36m, coco):
    joints, _ = coco_to_h36m(named(**{f"{side}_{coco}": (12.25, 34.5)}), np.ones(17))
    assert joints[H36M_17.index(f"{side}_{h36m}")].tolist() == [12.25, 34.5]


def test_confidences_are_means_too_and_are_not_clipped():
    scores = np.arange(17, dtype=np.float32)
    _, confidence = coco_to_h36m(np.zeros((17, 2)), scores)
    by_hand = [11.5, 12, 14, 16, 11, 13, 15, 8.5, 5.5, 0, 1.5, 5, 7, 9, 6, 8, 10]
    assert confidence.tolist() == by_hand


def test_leading_dimensions_and_dtypes():
    rng = np.random.default_rng(0)
    keypoints, scores = rng.uniform(0, 1000, (3, 2, 17, 2)), rng.uniform(0, 1, (3, 2, 17))
    joints, confidence = coco_to_h36m(keypoints, scores)
    assert (joints.shape, joints.dtype) == ((3, 2, 17, 2), np.float32)
    assert (confidence.shape, confidence.dtype) == ((3, 2, 17), np.float32)
    one, _ = coco_to_h36m(keypoints[2, 1], scores[2, 1])
    np.testing.assert_array_equal(joints[2, 1], one)


def test_a_missing_joint_spoils_only_what_is_made_of_it():
    keypoints = np.zeros((17, 2), np.float32)
    keypoints[COCO_17.index("left_eye")] = np.nan
    joints, _ = coco_to_h36m(keypoints, np.ones(17))
    assert np.flatnonzero(np.isnan(joints).any(axis=1)).tolist() == [H36M_17.index("head")]


def test_nobody():
    joints, confidence = coco_to_h36m(np.zeros((0, 17, 2), np.float32), np.zeros((0, 17), np.float32))
    assert joints.shape == (0, 17, 2)
    assert confidence.shape == (0, 17)
