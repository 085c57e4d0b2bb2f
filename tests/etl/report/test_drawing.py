"""Drawings lie where the joints are, whatever the crop and the scale."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.report.drawing import Person, View, banner, crop, draw_depth_map, draw_view, panels, scaled

NOWHERE = np.full((17, 2), np.nan)


def person(joints: np.ndarray, box: np.ndarray | None = None, **more: np.ndarray) -> Person:
    some = box if box is not None else np.array([*joints.min(0), *joints.max(0)])
    return Person(joints, np.full(17, 4.0), np.full(17, 6.0), some, **more)


def spotted(joints: np.ndarray, width: int = 400, height: int = 300) -> View:
    """A black image that is white around joint 3, with a depth map of 2 m there and 5 m elsewhere."""
    image = np.zeros((height, width, 3), np.uint8)
    x, y = joints[3].astype(int)
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
    depth = np.where(image[..., 0] > 0, 2.0, 5.0).astype(np.float32)
    box = np.array([*np.minimum(joints.min(0), [x - 30, y - 30]), *np.maximum(joints.max(0), [x + 30, y + 30])])
    return View(image, (person(joints, box, coco=joints + 1, truth=joints + 2),), depth)


def centroid(image: np.ndarray) -> np.ndarray:
    weight = image.astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@given(
    x=st.integers(20, 379), y=st.integers(20, 279), left=st.integers(10, 390), top=st.integers(10, 290),
    height=st.integers(150, 900),
)  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_joints_stay_on_their_pixels(x: int, y: int, left: int, top: int, height: int) -> None:
    joints = np.tile([float(left), float(top)], (17, 1))
    joints[3] = x, y
    view = crop(spotted(joints))
    (cut,) = view.people
    np.testing.assert_allclose(centroid(view.image[..., 0]), cut.joints[3])
    assert view.depth_map is not None
    assert view.depth_map[tuple(cut.joints[3].astype(int)[::-1])] == 2
    big = scaled(view, height)
    (large,) = big.people
    factor = height / view.image.shape[0]
    assert big.image.shape[0] == height
    assert np.abs(centroid(big.image[..., 0]) - large.joints[3]).max() < 0.3 + 0.5 * factor
    np.testing.assert_allclose(large.radius, 6 * factor)
    for moved in (large.coco, large.truth):
        assert moved is not None
    np.testing.assert_allclose(large.truth - large.joints, 2 * factor)
    np.testing.assert_allclose(large.box[:2] - large.joints[3], factor * (cut.box[:2] - cut.joints[3]))


def test_doubling_keeps_pixel_centres() -> None:
    joints = np.tile([10.0, 20.0], (17, 1))
    view = scaled(View(np.zeros((50, 60, 3), np.uint8), (person(joints),)), 100)
    np.testing.assert_allclose(view.people[0].joints[0], [20.5, 40.5])
    assert view.image.shape == (100, 120, 3)


def test_discs_have_their_real_radii() -> None:
    joints = NOWHERE.copy()
    joints[5] = 60, 50
    radius = np.full(17, np.nan)
    radius[5] = 20.0
    someone = Person(joints, np.full(17, np.nan), radius, np.full(4, np.nan))
    picture = draw_depth_map(View(np.zeros((110, 120, 3), np.uint8), (someone,), np.full((110, 120), 3, np.float32)))
    assert picture is not None
    ring = np.argwhere((picture[:90] > 180).all(-1))  # above the scale
    distance = np.hypot(*(ring - [50, 60]).T)
    assert len(ring) >= 8
    assert np.abs(distance - 20).max() < 1.5


def test_what_is_not_there_is_not_drawn() -> None:
    image = np.full((80, 90, 3), 7, np.uint8)
    nobody = Person(NOWHERE, np.full(17, np.nan), np.full(17, np.nan), np.full(4, np.nan))
    np.testing.assert_array_equal(draw_view(View(image, (nobody,))), image)
    assert crop(View(image)).image is image
    assert crop(View(image, (nobody,))).image is image
    assert draw_depth_map(View(image)) is None
    np.testing.assert_array_equal(image, 7)


def test_panels_show_what_there_is() -> None:
    joints = np.linspace([100, 60], [200, 250], 17)
    view = spotted(joints)
    alone = panels(View(view.image, view.people), 300)
    assert alone.shape == (300, 400, 3)
    assert panels(view, 300).shape == (300, 806, 3)
    assert panels(view, 300, coco=True).shape == (300, 1212, 3)
    assert banner(alone, "a name").shape == (326, 400, 3)
    blank = np.full((300, 400), np.nan, np.float32)
    empty = draw_depth_map(View(view.image, (), blank))
    assert empty is not None
    assert not empty[:200].any()


@pytest.mark.parametrize("coco", [False, True])
def test_the_skeleton_that_was_asked_for_is_drawn(coco: bool) -> None:
    view = View(np.zeros((200, 300, 3), np.uint8), (person(NOWHERE + 0, np.full(4, np.nan)),))
    mine, theirs = np.tile([50.0, 50.0], (17, 1)), np.tile([200.0, 100.0], (17, 1))
    view = View(view.image, (person(mine, np.full(4, np.nan), coco=theirs),))
    drawn = cv2.cvtColor(draw_view(view, coco=coco, discs=False), cv2.COLOR_RGB2GRAY) > 60
    assert drawn[100, 200] == coco
    assert drawn[50, 50] != coco


def test_depths_are_drawn_without_discs_too() -> None:
    black, told = np.zeros((200, 200, 3), np.uint8), person(np.tile([60.0, 60.0], (17, 1)))
    untold = replace(told, depth=np.full(17, np.nan))
    with_depths, without = (draw_view(View(black, (shown,)), discs=False) for shown in (told, untold))
    assert (with_depths != without).any()
