from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.models import geometry
from etl.models.base import ArrayDepth
from etl.models.embedded import depth as bd
from schemas.camera import Camera
from schemas.skeletons import H36M_17

# One of Human3.6M's, with its lens.
CAMERA = Camera(
    "54138969", 1000, 1002, (1145.0494, 1143.7811), (512.5415, 515.4515), "h36m",
    radial=(-0.2070989, 0.2477752, -0.0030752), tangential=(-0.0014245, -0.0009757),
)  # fmt: skip


def a_body(rng: np.random.Generator) -> np.ndarray:
    """33 landmarks in metres: a rough standing body with noise."""
    return rng.normal([0, 0, 0], [0.25, 0.5, 0.15], (33, 3))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(5, 8))  # nearer, hands would lie where no image of this lens reaches
def test_translation_is_found_exactly_under_a_real_lens(seed, distance):
    rng = np.random.default_rng(seed)
    world = a_body(rng)
    true = np.array([*(rng.uniform(-0.2, 0.2, 2) * distance), distance])
    pixels = CAMERA.project(world + true)
    found = bd.solve_translation(CAMERA.unproject(pixels), world, rng.uniform(0.1, 1, 33))
    np.testing.assert_allclose(found, true, atol=1e-4)


def test_one_wrong_limb_does_not_move_the_body():
    rng = np.random.default_rng(1)
    world, true = a_body(rng), np.array([0.3, 0.1, 5.0])
    pixels = CAMERA.project(world + true)
    pixels[[13, 15]] += (150, -120)
    plane = CAMERA.unproject(pixels)
    plain = bd.solve_translation(plane, world, np.ones(33), rounds=0)
    robust = bd.solve_translation(plane, world, np.ones(33))
    assert np.abs(robust - true).max() < 0.05
    assert np.abs(robust - true).max() < np.abs(plain - true).max() / 5


def test_invisible_landmarks_do_not_count():
    rng = np.random.default_rng(2)
    world, true = a_body(rng), np.array([0.0, 0.0, 4.0])
    pixels = CAMERA.project(world + true)
    weights = np.ones(33)
    pixels[:8] = rng.uniform(0, 1000, (8, 2))
    weights[:8] = 0
    np.testing.assert_allclose(bd.solve_translation(CAMERA.unproject(pixels), world, weights), true, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.floats(-0.8, 0.8), st.floats(-0.8, 0.8))
def test_line_of_sight_becomes_the_ray(u, v):
    ray = np.array([u, v, 1]) / math.sqrt(u * u + v * v + 1)
    axes = bd.from_line_of_sight(np.eye(3), np.array([u, v]))
    np.testing.assert_allclose(axes[2], ray, atol=1e-12)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    # The smallest rotation: its angle is that between the two directions.
    assert (np.trace(axes) - 1) / 2 == pytest.approx(ray[2])


def test_a_body_seen_off_the_axis_is_placed_where_it_is():
    """What a camera turned towards the body sees, in that camera's axes, comes out in this camera's."""
    rng = np.random.default_rng(3)
    place = np.array([1.5, -0.4, 4.0])
    body = a_body(rng)
    body -= body[[23, 24]].mean(0)
    ray = place[:2] / place[2]
    axes = bd.from_line_of_sight(np.eye(3), ray)  # rows: the turned camera's axes
    in_sight = body @ axes.T
    pixels = CAMERA.project(body + place)
    world = bd.from_line_of_sight(in_sight, ray)
    np.testing.assert_allclose(world, body, atol=1e-12)
    np.testing.assert_allclose(bd.solve_translation(CAMERA.unproject(pixels), world, np.ones(33)), place, atol=1e-4)


def test_joint_depths_by_name():
    depths = np.arange(33.0)
    found = dict(zip(H36M_17.joints, bd.joint_depths(depths), strict=True))
    assert found["pelvis"] == 23.5
    assert found["left_hip"] == 23
    assert found["right_foot"] == 28
    assert found["left_wrist"] == 15
    assert found["right_elbow"] == 14
    assert found["thorax"] == 11.5
    assert found["spine"] == (11 + 12 + 23 + 24) / 4
    assert found["neck_base"] == 0
    assert found["head"] == (2 + 5) / 2


POINTS = np.full((33, 2), 100.0)
POINTS[[7, 8]], POINTS[0] = [[105, 40], [95, 40]], [100, 42]
POINTS[[11, 12, 23, 24]] = [[120, 60], [80, 60], [112, 120], [88, 120]]
POINTS[[13, 15, 19]] = [[140, 80], [100, 90], [95, 92]]  # the left forearm lies across the trunk
POINTS[[14, 16, 20]] = [[70, 90], [65, 120], [65, 125]]
POINTS[[25, 27, 29, 31]] = [[112, 160], [112, 200], [112, 205], [116, 208]]
POINTS[[26, 28, 30, 32]] = [[88, 160], [88, 200], [88, 205], [84, 208]]


def depths_of_the_pose(arm: float) -> np.ndarray:
    depths = np.full(33, 5.0)
    depths[[13, 15, 19]] = arm
    return depths


def painted_at(places: list[tuple[int, int]], depths: np.ndarray) -> list[float]:
    xs, ys = np.array(places).T
    return bd.paint(xs, ys, POINTS, depths, 100.0).tolist()


def test_paint_shows_the_nearest_of_what_covers_a_pixel():
    places = [(101, 90), (120, 85), (112, 180), (132, 70)]  # wrist before the trunk, forearm, shank, upper arm
    front = painted_at(places, depths_of_the_pose(4.6))
    (behind, *_) = painted_at(places, depths_of_the_pose(5.4))
    assert front[:3] == pytest.approx([4.6, 4.6, 5.0])
    assert behind == pytest.approx(5.0)  # the wrist behind it: the trunk shows
    assert 4.6 < front[3] < 5.0


def test_paint_agrees_with_a_plain_loop():
    rng = np.random.default_rng(4)
    xs, ys = rng.integers(0, 256, (2, 1200))  # more than are painted at a time
    depths = rng.uniform(4, 6, 33)
    found = bd.paint(xs, ys, POINTS, depths, 100.0)
    middle = lambda a, b: ((POINTS[a] + POINTS[b]) / 2, (depths[a] + depths[b]) / 2)  # noqa: E731
    ends = {i: (POINTS[i], depths[i]) for i in range(33)} | {33: middle(11, 12), 34: middle(23, 24), 35: middle(7, 8)}
    for i in (*range(150), *range(1000, 1200)):
        x, y = xs[i], ys[i]
        covering, closest = [], (math.inf, 0.0)
        for a, b, radius in bd.BONES:
            (p, za), (q, zb) = ends[a], ends[b]
            t = min(1.0, max(0.0, float((np.array([x, y]) - p) @ (q - p) / ((q - p) @ (q - p)))))
            gap = math.dist((x, y), p + t * (q - p)) - 100 * radius
            z = za + t * (zb - za)
            if gap <= 0:
                covering.append(z)
            closest = min(closest, (gap, z))
        assert found[i] == pytest.approx(min(covering) if covering else closest[1], abs=1e-4)


def test_paint_of_no_pixels():
    nothing = np.zeros(0, int)
    assert bd.paint(nothing, nothing, POINTS, np.full(33, 5.0), 100.0).shape == (0,)


def test_own_component_leaves_strangers_out():
    mask = np.full((256, 256), -5.0, np.float32)
    mask[40:210, 60:140] = 5
    mask[10:200, 200:250] = 5
    own = bd.own_component(mask, POINTS)
    assert own[40:210, 60:140].all()
    assert own.sum() == 170 * 80
    alone = np.full((256, 256), -5.0, np.float32)
    alone[10:20, 200:250] = 5
    assert bd.own_component(alone, POINTS).sum() == 500  # one piece is the person's, wherever it lies


def disc(matrix: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """Logits (256, 256) in the crop of a disc of the image."""
    ys, xs = np.mgrid[:256, :256]
    places = geometry.apply(geometry.invert(matrix), np.stack([xs, ys], axis=-1))
    return (radius - np.linalg.norm(places - center, axis=-1)).astype(np.float32)


def a_disc(center: tuple[float, float], radius: float, depth: float, rotation: float = 0.3) -> bd.Body:
    at = np.array(center)
    matrix = geometry.crop_matrix(at + (3, -5), (3 * radius, 3 * radius), rotation, (256, 256))  # noqa: RUF005
    points = np.tile(at, (33, 1)) + np.arange(33)[:, None]
    return bd.Body(disc(matrix, at, radius), matrix, points, np.full(33, depth), 1000.0)


def painted(bodies: list[bd.Body], shape: tuple[int, int]) -> np.ndarray:
    return bd.BodyDepth(shape, tuple(bodies)).to_array()


@settings(deadline=None, max_examples=30)
@given(st.floats(-50, 450), st.floats(-50, 350), st.floats(30, 150), st.floats(-3, 3))
def test_mask_lands_where_it_was_seen(x, y, radius, rotation):
    """A disc of the image, seen in a turned crop, covers the same pixels again, also at the image's edges."""
    shape = (300, 400)
    found = painted([a_disc((x, y), radius, 3.0, rotation)], shape)
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    away = np.hypot(xs - x, ys - y) - radius
    tolerance = 0.05 + 3 * radius / 256 * 0.1
    assert (found[away < -tolerance] == 3.0).all()
    assert np.isnan(found[away > tolerance]).all()


def test_the_nearer_body_is_seen():
    near, far = a_disc((150, 150), 60, 3.0), a_disc((200, 150), 60, 4.0)
    for bodies in ([near, far], [far, near]):
        found = painted(bodies, (300, 400))
        assert found[150, 175] == 3.0
        assert found[150, 120] == 3.0
        assert found[150, 250] == 4.0
        assert np.isnan(found[150, 300])


def test_nobody_and_somebody_outside_the_image():
    for bodies in ((), (a_disc((-300, 150), 60, 3.0),)):
        depth = bd.BodyDepth((300, 400), bodies)
        assert np.isnan(depth.to_array()).all()
        assert np.isnan(depth.windows(np.array([[[5, 5], [399, 299]]]), 2)).all()
        assert depth.windows(np.array([[[5, 5], [399, 299]]]), 2).shape == (1, 2, 5, 5)


def test_the_edge_of_the_crop_ends_the_person():
    """A mask that fills its crop covers the crop's pixels of the image, half a pixel around their centres."""
    matrix = geometry.crop_matrix((49.5, 49.5), (20, 20), 0.0, (40, 40))
    body = bd.Body(np.full((40, 40), 90, np.float32), matrix, np.full((33, 2), 50.0), np.full(33, 2.0), 1000.0)
    found = bd.BodyDepth((100, 100), (body,)).to_array()
    rows, columns = np.nonzero(found == 2)
    assert (rows.min(), rows.max(), columns.min(), columns.max(), len(rows)) == (40, 59, 40, 59, 400)
    assert np.isnan(found).sum() == 9600


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-20, 80), st.floats(-20, 60), st.floats(5, 40), st.floats(2, 6)), max_size=3),
    st.integers(0, 10_000),
    st.integers(0, 9),
)
def test_windows_are_those_of_the_whole_map(people, seed, radius):
    shape = (41, 57)
    depth = bd.BodyDepth(shape, tuple(a_disc((x, y), size, far) for x, y, size, far in people))
    rng = np.random.default_rng(seed)
    centers = np.stack([rng.integers(0, shape[1], (2, 17)), rng.integers(0, shape[0], (2, 17))], axis=-1)
    whole = depth.to_array()
    assert whole.shape == shape == depth.shape
    np.testing.assert_array_equal(depth.windows(centers, radius), ArrayDepth(whole).windows(centers, radius))
    pixels = rng.integers(0, whole.size, rng.integers(0, 700))
    np.testing.assert_array_equal(depth.at(pixels), whole.reshape(-1)[pixels])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(0.2, 3))
def test_mask_box_holds_every_pixel(seed, rotation, scale):
    rng = np.random.default_rng(seed)
    inside = rng.uniform(size=rng.integers(1, 30, 2)) < rng.choice([0.02, 0.3])
    matrix = geometry.crop_matrix((70, 40), (30 * scale, 30 * scale), rotation, (30, 30))
    back = np.linalg.inv(matrix)
    found = bd.mask_box(inside, back)
    ys, xs = np.nonzero(inside)
    if not len(xs):
        assert found is None
        return
    squares = [geometry.apply(back, np.stack([xs + dx, ys + dy], axis=1)) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)]
    every = np.concatenate(squares)
    np.testing.assert_allclose(found, [*every.min(0), *every.max(0)], atol=1e-9)
