from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.models.base import Poses
from etl.stages.blocks.people import associate, box_of_keypoints, choose_person, iou


def people(boxes, mean_scores=None, box_scores=None) -> Poses:
    """People whose joints fill their boxes, corner to corner."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    steps = np.linspace(0, 1, 17)[None, :, None]
    keypoints = boxes[:, None, :2] * (1 - steps) + boxes[:, None, 2:] * steps
    scores = np.tile(np.asarray(mean_scores if mean_scores is not None else np.ones(n), np.float32)[:, None], (1, 17))
    own = np.asarray(box_scores if box_scores is not None else np.ones(n), np.float32)
    return Poses(keypoints.astype(np.float32), scores, boxes, own)


def test_rules_pick_different_people():
    poses = people(
        [[0, 0, 10, 10], [0, 0, 50, 90], [5, 5, 9, 9]], mean_scores=[0.8, 0.5, 0.6], box_scores=[0.3, 0.4, 0.9]
    )
    assert choose_person(poses) == 0
    assert choose_person(poses, "largest_box") == 1
    assert choose_person(poses, "box_score") == 2


def test_the_mean_over_all_17_keypoints_counts_not_the_best_keypoint():
    poses = people([[0, 0, 10, 10], [0, 0, 10, 10]])
    poses.scores[0] = 0.5
    poses.scores[1] = 0.4
    poses.scores[1, 3] = 1.0
    assert choose_person(poses) == 0


def test_nobody_equals_and_nan():
    assert choose_person(people([])) is None
    box = [0, 0, 10, 10]
    assert choose_person(people([box, box], mean_scores=[0.5, 0.5])) == 0
    assert choose_person(people([box, box], mean_scores=[np.nan, 0.1])) == 1


def test_iou_by_hand():
    boxes = [[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0], [np.nan] * 4]
    expected = [1, 50 / 150, 0, 0, 0]
    assert iou(np.array(boxes[:1]), np.array(boxes))[0].tolist() == pytest.approx(expected, abs=0)


def test_box_of_keypoints_skips_missing_joints():
    keypoints = np.full((2, 17, 2), np.nan)
    keypoints[0, 3], keypoints[0, 9], keypoints[0, 1] = (5, 90), (40, 20), (np.nan, 300)
    boxes = box_of_keypoints(keypoints)
    assert boxes[0].tolist() == [5, 20, 40, 90]
    assert np.isnan(boxes[1]).all()


def test_association_is_one_to_one_and_optimal():
    # Each alone would take candidate 0; together the sum of overlaps decides.
    annotated = np.array([[0, 0, 10, 10], [2, 0, 12, 10]], float)
    poses = people([[1.5, 0, 11.5, 10], [-3, 0, 7, 10], [100, 0, 110, 10]])
    assert associate(poses, annotated).tolist() == [1, 0]
    assert associate(poses, annotated[::-1]).tolist() == [0, 1]


def test_a_person_without_match_does_not_take_anothers():
    poses = people([[0, 0, 10, 10]])
    far, near = [100.0, 0, 110, 10], [1.0, 0, 11, 10]
    assert associate(poses, np.array([far, near])).tolist() == [-1, 0]
    assert associate(poses, np.array([[np.nan] * 4, near])).tolist() == [-1, 0]
    assert associate(poses, np.array([near]), min_iou=0.9).tolist() == [-1]
    assert associate(people([]), np.array([near])).tolist() == [-1]
    assert associate(poses, np.zeros((0, 4))).tolist() == []


def test_association_is_by_the_joints_boxes():
    poses = people([[0, 0, 10, 10], [20, 0, 30, 10]])
    moved = Poses(poses.keypoints[::-1], poses.scores, poses.boxes, poses.box_scores)
    annotated = np.array([[0, 0, 10, 10.0]])
    assert associate(moved, annotated).tolist() == [1]


boxes = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)).map(
        lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(found=boxes, annotated=boxes, min_iou=st.sampled_from([0.0, 0.2, 0.5]))
def test_association_finds_the_best_sum_of_all(found, annotated, min_iou):
    poses, targets = people(found), np.array(annotated, float)
    rows = associate(poses, targets, min_iou)
    taken = rows[rows >= 0]
    assert len(set(taken.tolist())) == len(taken)
    overlaps = iou(targets, poses.boxes)
    overlaps[overlaps < min_iou] = 0
    assert all(overlaps[i, r] > 0 for i, r in enumerate(rows) if r >= 0)
    padded = np.zeros((len(targets), len(found) + len(targets)))
    padded[:, : len(found)] = overlaps
    best = max(padded[range(len(targets)), p].sum() for p in permutations(range(padded.shape[1]), len(targets)))
    assert sum(overlaps[i, r] for i, r in enumerate(rows) if r >= 0) == pytest.approx(best)
