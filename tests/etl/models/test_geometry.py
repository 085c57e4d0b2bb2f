from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.models import geometry as g

SIZES = st.tuples(st.integers(60, 700), st.integers(60, 700))


def dot(size: tuple[int, int], at: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian dot, float32 in [0, 255]."""
    x = np.exp(-((np.arange(size[0]) - at[0]) ** 2) / (2 * sigma**2))
    y = np.exp(-((np.arange(size[1]) - at[1]) ** 2) / (2 * sigma**2))
    return (255 * np.outer(y, x)).astype(np.float32)


def centroid(image: np.ndarray) -> np.ndarray:
    weights = image.astype(np.float64)
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(xs * weights).sum(), (ys * weights).sum()]) / weights.sum()


def assert_dot_returns(
    image_size: tuple[int, int],
    matrix: np.ndarray,
    size: tuple[int, int],
    place: np.ndarray,
    stride: float = 1.0,
    steps: float = 0.0,
) -> None:
    """A dot at the relative `place` of the output is found, through the warp, where it is in the image.

    Within 0.1 px of the image, or within `steps` of the output's pixels where that is more.
    """
    back = g.invert(matrix)
    step = np.linalg.norm(back[:2, :2], axis=0).max()
    sigma = max(1.5, 1.2 * step)
    at = g.apply(back, (np.asarray(size) - 1) * place)
    room = 6 * sigma
    inside_image = (at > room).all() and (at < np.asarray(image_size) - 1 - room).all()
    corners = g.apply(matrix, at + room * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]))
    if not inside_image or (corners < 0).any() or (corners > np.asarray(size) - 1).any():
        return  # the dot would be cut
    out = g.warp(dot(image_size, at, sigma), matrix, size, stride=stride)
    assert out.shape == (size[1], size[0])
    assert np.abs(g.apply(back, centroid(out)) - at).max() < max(0.1, steps * step)


PLACES = st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)).map(np.array)


@settings(deadline=None, max_examples=150)
@given(
    SIZES,
    SIZES,
    PLACES,
    st.floats(-math.pi, math.pi),
    st.floats(0.3, 3),
    st.floats(0.5, 2),
    st.tuples(*[st.floats(0.4, 0.6)] * 2),
)
def test_warp_through_a_rotated_crop_keeps_positions(image_size, size, place, rotation, extent, aspect, middle):
    region = min(image_size) * extent * np.array([aspect, 1.0])
    matrix = g.crop_matrix(np.array(image_size) * middle, region, rotation, size)
    assert_dot_returns(image_size, matrix, size, place)


def test_the_dot_test_is_not_vacuous():
    """The same check fails when the map is half a pixel off, and reaches its end for a typical crop."""
    matrix = g.crop_matrix((200, 180), (300, 300), 0.4, (256, 256))
    assert_dot_returns((400, 360), matrix, (256, 256), np.array([0.5, 0.5]))
    at = np.array([190.0, 170.0])
    out = g.warp(dot((400, 360), at, 3), matrix, (256, 256))
    shifted = g.translation_matrix(0.5, 0) @ matrix
    assert np.abs(g.apply(g.invert(shifted), centroid(out)) - at).max() > 0.3


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES, PLACES)
def test_warp_through_resize_keeps_positions(image_size, size, place):
    assert_dot_returns(image_size, g.resize_matrix(image_size, size), size, place)


@settings(deadline=None, max_examples=50)
@given(SIZES, SIZES, st.floats(-4, 4), st.tuples(st.floats(20, 900), st.floats(20, 900)))
def test_invert_goes_back(image_size, size, rotation, region):
    matrix = g.crop_matrix(np.array(image_size) / 2, region, rotation, size)
    points = np.random.default_rng(0).uniform(-100, 800, (3, 5, 2))
    np.testing.assert_allclose(g.apply(g.invert(matrix), g.apply(matrix, points)), points, atol=1e-8)


def test_crop_maps_corners_of_the_region_to_corners_of_the_crop():
    center, size = np.array([100.0, 80.0]), np.array([40.0, 20.0])
    upright = g.crop_matrix(center, size, 0.0, (80, 80))
    np.testing.assert_allclose(g.apply(upright, center - size / 2), (-0.5, -0.5), atol=1e-12)
    np.testing.assert_allclose(g.apply(upright, center + size / 2), (79.5, 79.5), atol=1e-12)
    # Turned a quarter clockwise, the region's top points to the right of the image.
    turned = g.crop_matrix(center, size, math.pi / 2, (80, 80))
    np.testing.assert_allclose(g.apply(turned, center + np.array([10, 0])), (39.5, -0.5), atol=1e-12)
    np.testing.assert_allclose(g.apply(turned, center + np.array([0, 20])), (79.5, 39.5), atol=1e-12)


@pytest.mark.parametrize(
    ("image_size", "size"), [((640, 480), (160, 120)), ((100, 60), (250, 90)), ((33, 47), (33, 47))]
)
def test_resize_agrees_with_opencv(image_size, size):
    image = np.random.default_rng(1).uniform(0, 255, (image_size[1], image_size[0], 3)).astype(np.float32)
    shrinks = size[0] < image_size[0]
    expected = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    found = g.warp(image, g.resize_matrix(image_size, size), size, border="replicate")
    np.testing.assert_allclose(found, expected, atol=3 if not shrinks else 1e-3)


def test_identity_returns_the_image_bit_for_bit():
    image = np.random.default_rng(2).integers(0, 256, (41, 57, 3), np.uint8)
    np.testing.assert_array_equal(g.warp(image, np.eye(3), (57, 41)), image)


def test_warp_does_not_alias():
    """A pattern finer than the output's pixels becomes its mean, at every scale and angle."""
    ys, xs = np.mgrid[:800, :800]
    image = (((xs + ys) % 2) * 255).astype(np.uint8)
    for extent, rotation in [(700, 0.0), (500, 0.3), (460, 1.0)]:
        out = g.warp(image, g.crop_matrix((400, 400), (extent, extent), rotation, (100, 100)), (100, 100))
        assert np.abs(out.astype(float) - 127.5).max() < 20


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES, PLACES, st.floats(-math.pi, math.pi), st.floats(0.3, 3))
def test_warp_with_a_long_stride_keeps_positions(image_size, size, place, rotation, extent):
    region = np.array(size) / max(size) * extent * min(image_size)
    matrix = g.crop_matrix((np.array(image_size) - 1) / 2, region, rotation, size)
    # Sampled this sparsely a dot's centre moves with its place among the samples; by how much was searched for.
    assert_dot_returns(image_size, matrix, size, place, stride=1.5, steps=0.05)


def test_warp_averages_what_a_long_stride_allows_to_skip():
    """Stripes a pixel wide, seen at 2.8 px a pixel: blocks of two make them grey, whatever the stride."""
    image = np.zeros((560, 560), np.uint8)
    image[:, ::2] = 254
    matrix = g.resize_matrix((560, 560), (200, 200))
    for stride in (1.0, 1.5):
        out = g.warp(image, matrix, (200, 200), stride=stride, border="replicate")
        assert np.abs(out.astype(float) - 127).max() <= 1


@pytest.mark.parametrize("block", [2, 3, 4, 6, 8])
def test_warp_by_whole_blocks_is_their_mean(block):
    image = np.random.default_rng(5).uniform(0, 255, (240, 240, 3)).astype(np.float32)
    size = 240 // block
    found = g.warp(image, g.resize_matrix((240, 240), (size, size)), (size, size), border="replicate")
    expected = image.reshape(size, block, size, block, 3).mean((1, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_warp_outside_the_image_gives_the_border():
    image = np.full((50, 50, 3), 200, np.uint8)
    matrix = g.crop_matrix((24.5, 24.5), (125, 50), 0.0, (100, 40))
    out = g.warp(image, matrix, (100, 40), border=114)
    assert (out[:, :29] == 114).all()
    assert (out[2:-2, 32:68] == 200).all()
    assert (g.warp(image, matrix, (100, 40), border="replicate") == 200).all()
    far = g.crop_matrix((-500, 900), (40, 40), 0.2, (32, 32))
    assert (g.warp(image, far, (32, 32), border=7) == 7).all()


def test_warp_reads_only_the_window_that_it_needs():
    image = np.random.default_rng(3).integers(0, 256, (900, 1200), np.uint8)
    matrix = g.crop_matrix((611.3, 402.7), (333, 250), 0.5, (64, 48))
    alone = np.zeros_like(image)
    alone[100:700, 300:900] = image[100:700, 300:900]
    np.testing.assert_array_equal(g.warp(image, matrix, (64, 48)), g.warp(alone, matrix, (64, 48)))


def test_flip_is_numpys_flip():
    image = np.random.default_rng(4).integers(0, 256, (20, 31, 3), np.uint8)
    np.testing.assert_array_equal(g.warp(image, g.flip_matrix(31), (31, 20)), image[:, ::-1])
    np.testing.assert_array_equal(g.apply(g.flip_matrix(31), (0, 5)), (30, 5))


def test_letterbox_sizes_are_rounded_as_by_mmcv():
    assert g.letterbox_size((1000, 1002), (640, 640)) == (639, 640)


def test_pad_boxes_as_mmpose():
    # MMPose: bbox_xyxy2cs(padding=1.25), then TopdownAffine._fix_aspect_ratio(aspect=288 / 384)
    centers, sizes = g.pad_boxes([[10, 20, 110, 220], [0, 0, 300, 100]], 1.25, 0.75)
    np.testing.assert_allclose(centers, [[60, 120], [150, 50]])
    np.testing.assert_allclose(sizes, [[187.5, 250], [375, 500]])
    np.testing.assert_allclose(g.pad_boxes([10, 20, 110, 220], 1.0)[1], [100, 200])
