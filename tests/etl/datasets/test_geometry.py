import json
from pathlib import Path

import numpy as np
import pytest

from etl.datasets.geometry import doubts, measure_body, measure_reprojection, require_near, require_rotation
from etl.errors import DatasetError
from schemas.camera import Camera
from tests.etl.datasets.people import looking_at, moved, people

PATH = Path("some/file")
POSE = looking_at((3.0, 3.0, 1.5), (0, 0, 1.0))
CAMERA = Camera("c", 1000, 1000, (1000.0, 1000.0), (500.0, 500.0))


def bodies(count=9):
    return moved(POSE, people(count))


def test_figures_of_bodies_that_are_right():
    figures = measure_body(PATH, bodies())
    assert figures["sides"] == figures["front"] == 1
    assert 0.40 < figures["leg_m"] < 0.46


def test_rows_that_are_not_finite_are_left_out():
    joints = bodies()
    joints[3] = np.nan
    assert measure_body(PATH, joints)["sides"] == 1
    assert measure_body(PATH, np.full((2, 17, 3), np.nan)) == {}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda j: j * 1000, "m long"),
        (lambda j: j / 10, "m long"),
        (lambda j: j[:, [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]], "same side"),
        (lambda j: j[:, [*range(11), 14, 15, 16, 11, 12, 13]], "same side"),
        (lambda j: j * [-1, 1, 1], "at the front of the bodies"),
        (lambda j: j[:, [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]], "at the front of the bodies"),
        (lambda j: np.concatenate([j[:4], j[4:] * [-1, 1, 1]]), "at the front of the bodies"),  # 5 of 9
    ],
)
def test_bodies_that_cannot_be(change, rule):
    with pytest.raises(DatasetError, match=rule) as caught:
        measure_body(PATH, change(bodies()))
    assert str(PATH) in caught.value.rule


def test_a_minority_of_odd_poses_is_no_fault():
    joints = bodies()
    joints[:4] *= [-1, 1, 1]
    assert measure_body(PATH, joints)["front"] == pytest.approx(5 / 9, abs=1e-3)


@pytest.mark.parametrize(("exchanged", "refused", "noted"), [(0, False, False), (1, False, True), (3, True, False)])
def test_sides_that_disagree_now_and_then_are_noted_and_more_is_refused(exchanged, refused, noted):
    joints = bodies()  # 9 of them
    legs_first = joints[:, [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]]
    joints[:exchanged] = legs_first[:exchanged]
    if refused:
        with pytest.raises(DatasetError, match="in 80% of the frames") as caught:
            measure_body(PATH, joints)
        assert caught.value.found == "the same side in 67% of the frames"
        return
    found = doubts(measure_body(PATH, joints))
    assert found == (["shoulders and hips agree on what is right in 89% of the frames"] if noted else [])
    assert doubts({}) == []


def test_what_is_ahead_can_be_told_otherwise():
    joints = bodies()
    back = joints[:, 8] - joints[:, 9]
    with pytest.raises(DatasetError, match="front"):
        measure_body(PATH, joints, back)


def test_reprojection_figures_are_distances():
    points = bodies(1)[0]
    pixels = points[:, :2] / points[:, 2:] * 1000 + 500
    pixels[3] += [3, 4]
    figures = measure_reprojection(PATH, CAMERA, points, pixels, 1.0, share=0.9)
    assert figures == {"median": 0.0, "p90": 0.0, "max": 5.0}
    with pytest.raises(DatasetError, match="95% within 1 px") as caught:
        measure_reprojection(PATH, CAMERA, points, pixels, 1.0)
    assert "p95 5 px" in caught.value.found


def test_points_behind_the_camera_count_as_far_off():
    points = bodies(1)[0]
    pixels = points[:, :2] / points[:, 2:] * 1000 + 500
    with pytest.raises(DatasetError, match="within") as caught:
        measure_reprojection(PATH, CAMERA, -points, pixels, 100.0)
    assert "inf" in caught.value.found


def test_an_infinite_distance_stays_in_the_record():
    points = bodies(2).reshape(-1, 3)
    pixels = points[:, :2] / points[:, 2:] * 1000 + 500
    points[5, 2] = -1
    figures = measure_reprojection(PATH, CAMERA, points, pixels, 1.0)
    assert json.loads(json.dumps(figures, allow_nan=False)) == {"median": 0.0, "p95": 0.0, "max": "inf"}
    assert float(figures["max"]) == np.inf


def test_pairs_that_are_not_finite_are_not_compared():
    points, pixels = np.full((4, 3), np.nan), np.zeros((4, 2))
    assert measure_reprojection(PATH, CAMERA, points, pixels, 1.0) == {}
    assert require_near(PATH, np.empty(0), 1.0, 0.5, "px") == {}


def test_rotations():
    turns = np.stack([POSE[:3, :3], np.eye(3)])
    assert require_rotation(PATH, "R", turns) is turns
    for wrong, rule in (
        (turns * 1.01, "identity"),
        (turns * [[-1], [1], [1]], "determinant"),
        (turns + np.nan, "identity"),
    ):
        with pytest.raises(DatasetError, match=rule):
            require_rotation(PATH, "R", wrong)
