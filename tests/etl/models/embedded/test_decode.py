from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.models import geometry
from etl.models.embedded import decode as d
from schemas.skeletons import COCO_17


def candidates(*rows: tuple[float, float, float]) -> d.Candidates:
    """Boxes of side 20 around (x, y), with a score; hips at the centre, rim 50 px above."""
    xy, scores = np.array([r[:2] for r in rows]).reshape(-1, 2), np.array([r[2] for r in rows])
    return d.Candidates(xy, xy - [0, 50], np.concatenate([xy - 10, xy + 10], axis=1), scores)


def test_anchors_are_mediapipes():
    """Written out cell by cell, as SsdAnchorsCalculator does."""
    expected = []
    for cells, each in [(28, 2), (14, 2), (7, 6)]:
        for y in range(cells):
            for x in range(cells):
                expected += [((x + 0.5) / cells, (y + 0.5) / cells)] * each
    np.testing.assert_allclose(d.anchors(), expected)


def test_decode_places_boxes_and_points_relative_to_anchors():
    anchors = d.anchors()
    raw, logits = np.zeros((2254, 12), np.float32), np.full(2254, -9.0, np.float32)
    row = 1568 + 2 * (3 * 14 + 5)  # 14 x 14 layer, y = 3, x = 5: its centre is at (88, 56) from the corner
    raw[row] = [2, -3, 20, 10, 1, 2, 3, 4, 5, 6, 7, 8]
    logits[row], logits[0] = 1.5, -0.1
    found = d.decode(raw, logits, anchors, 0.5)
    assert len(found) == 1
    np.testing.assert_allclose(found.hips, [[88.5, 57.5]])
    np.testing.assert_allclose(found.rims, [[90.5, 59.5]])
    np.testing.assert_allclose(found.boxes, [[79.5, 47.5, 99.5, 57.5]])
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-1.5))])


def test_decode_sorts_and_bears_extreme_logits():
    logits = np.full(2254, -1e4, np.float32)
    logits[[10, 500, 2000]] = [1.0, 1e4, 2.0]
    found = d.decode(np.zeros((2254, 12)), logits, d.anchors(), 0.5)
    assert (np.diff(found.scores) < 0).all()
    assert found.scores[0] == 1
    assert len(d.decode(np.zeros((2254, 12)), np.full(2254, -1.0), d.anchors(), 0.5)) == 0


def test_suppression_averages_a_group_by_score():
    found = d.weighted_suppression(candidates((50, 50, 0.9), (54, 50, 0.6), (150, 50, 0.5)), 0.3)
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    np.testing.assert_allclose(found.hips, [[(50 * 0.9 + 54 * 0.6) / 1.5, 50], [150, 50]])
    np.testing.assert_allclose(found.boxes[:, 0], found.hips[:, 0] - 10)
    np.testing.assert_allclose(found.radii, [50, 50])
    assert len(d.weighted_suppression(candidates(), 0.3)) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 12), st.integers(0, 1000))
def test_suppression_leaves_no_overlap_of_the_best_and_loses_nobody(count, seed):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.uniform(0.5, 1, count))[::-1]
    found = candidates(*zip(*rng.uniform(0, 60, (2, count)), scores, strict=True))
    kept = d.weighted_suppression(found, 0.3)
    assert set(kept.scores) <= set(found.scores)
    best = found.take(np.flatnonzero(np.isin(found.scores, kept.scores)))
    alone = d.overlaps(best.boxes) - np.eye(len(best))
    assert (alone <= 0.3).all()  # a group's best isn't in another's group
    everyone = d.overlaps(np.concatenate([best.boxes, found.boxes]))[: len(best), len(best) :]
    assert (everyone.max(0, initial=0) > 0.3).all()


def test_overlaps_by_hand():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30.0]])
    np.testing.assert_allclose(d.overlaps(boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])


def test_distinct_people_by_distance_of_the_hips():
    hips = np.array([[0, 0], [30, 0], [40, 0], [300, 0.0]])
    radii, scores = np.array([100, 100, 100, 10.0]), np.array([0.5, 0.9, 0.7, 0.6])
    assert d.select_distinct(hips, radii, scores, 0.35).tolist() == [1, 3]
    assert d.select_distinct(hips, radii, scores, 0.05).tolist() == [1, 2, 3, 0]
    assert d.select_distinct(hips, radii, scores, 0.25).tolist() == [1, 3, 0]


@pytest.mark.parametrize(
    ("rim", "rotation"),
    [((100, 40), 0.0), ((160, 100), math.pi / 2), ((100, 160), -math.pi), ((40, 100), -math.pi / 2)],
)
def test_region_turns_the_body_upright(rim, rotation):
    center, side, found = d.region(np.array([100.0, 100.0]), np.array(rim, float), 1.25)
    np.testing.assert_allclose(center, (100, 100))
    assert side == pytest.approx(150)
    assert found == pytest.approx(rotation)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 2 * math.pi), st.floats(5, 400))
def test_the_body_points_up_in_the_crop_of_its_region(angle, radius):
    hip = np.array([300.0, 200.0])
    rim = hip + radius * np.array([math.cos(angle), math.sin(angle)])
    center, side, rotation = d.region(hip, rim, 1.25)
    assert -math.pi <= rotation < math.pi
    matrix = geometry.crop_matrix(center, (side, side), rotation, (256, 256))
    np.testing.assert_allclose(geometry.apply(matrix, hip), (127.5, 127.5), atol=1e-6)
    np.testing.assert_allclose(geometry.apply(matrix, rim), (127.5, 127.5 - 256 / 2.5), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.floats(-math.pi, math.pi))
def test_turn_takes_directions_of_the_crop_to_those_of_the_image(rotation):
    """A step along the crop's axes, in the image, is where `crop_matrix` puts it."""
    matrix = geometry.crop_matrix((50, 60), (256, 256), rotation, (256, 256))
    steps = np.array([[1.0, 0], [0, 1], [0.3, -2]])
    back = geometry.invert(matrix)
    expected = geometry.apply(back, steps) - geometry.apply(back, np.zeros((3, 2)))
    world = d.turn(np.concatenate([steps, [[5.0], [6], [7]]], axis=1), rotation)
    np.testing.assert_allclose(world, np.concatenate([expected, [[5.0], [6], [7]]], axis=1), atol=1e-9)


def test_landmarks_by_their_places_in_the_tensors():
    raw = np.zeros((39, 5), np.float32)
    raw[:, 0], raw[:, 1] = np.arange(39), 100 + np.arange(39)
    raw[:, 3], raw[:, 4] = 2.0, -1.0
    world = np.arange(117, dtype=np.float32)
    mask = np.zeros((256, 256), np.float32)
    found = d.decode_landmarks(raw.ravel(), world, 0.75, mask)
    np.testing.assert_allclose(found.points, np.stack([np.arange(33) - 0.5, np.arange(33) + 99.5], axis=1))
    np.testing.assert_allclose(found.hip, (32.5, 132.5))
    np.testing.assert_allclose(found.rim, (33.5, 133.5))
    np.testing.assert_allclose(found.world[2], (6, 7, 8))
    np.testing.assert_allclose(found.visibility, 1 / (1 + math.exp(-2)), rtol=1e-6)
    np.testing.assert_allclose(found.presence, 1 / (1 + math.exp(1)), rtol=1e-6)
    assert found.score == 0.75


def test_coco_joints_from_blazepose_names():
    names = (
        "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
        "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index",
        "left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
        "left_heel", "right_heel", "left_foot_index", "right_foot_index",
    )  # fmt: skip
    assert [names[i] for i in d.TO_COCO] == list(COCO_17.joints)


@settings(deadline=None, max_examples=60)
@given(st.integers(200, 4000), st.integers(200, 4000), st.floats(40, 150))
def test_tiles_cover_the_image_with_half_overlap(width, height, smallest):
    levels = d.tile_levels(width, height, smallest, 3.5)
    least = smallest * 3.5
    if max(width, height) <= least:
        assert levels == []
        return
    sides = [level[0][2] for level in levels]
    assert sides[-1] == pytest.approx(least)
    assert all(a / b < 2.9 for a, b in itertools.pairwise([max(width, height), *sides]))
    for level in levels:
        side = level[0][2]
        for axis, length in ((0, width), (1, height)):
            starts = sorted({tile[axis] for tile in level})
            assert starts[0] <= 1e-9
            assert starts[-1] + side >= length - 1e-9
            assert all(b - a <= side / 2 + 1e-6 for a, b in itertools.pairwise(starts))
        assert len(level) == len(set(level))


def test_tiles_of_a_known_image():
    assert [(len(level), round(level[0][2])) for level in d.tile_levels(1000, 1000, 80, 3.5)] == [(9, 529), (49, 280)]
    assert d.tile_levels(280, 200, 80, 3.5) == []
