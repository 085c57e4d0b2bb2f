"""The ray-caster against closed forms and against distances computed another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.demo import human36m
from etl.demo.raycast import Hits, Local, Primitive, Rays, capsule, cast, ellipsoid, union, windows_of
from schemas.camera import Camera

WHITE = (1.0, 1.0, 1.0)
CAMERA = human36m.camera_of("S1", "54138969", 0.3)
RAYS = Rays.of(CAMERA)
FULL = (0, 0, CAMERA.width, CAMERA.height)


def cast_one(primitive: Primitive, full: bool = False) -> Hits:
    window = FULL if full else windows_of([primitive], CAMERA)[0]
    return cast([(primitive, window)], RAYS, FULL)


def exact_rays(camera: Camera) -> np.ndarray:
    """x, y, 1 of every pixel centre, float64, fully converged: (H, W, 3)."""
    y, x = np.mgrid[: camera.height, : camera.width]
    plane = camera.unproject(np.stack([x, y], -1).astype(float), iterations=100)
    return np.concatenate([plane, np.ones_like(plane[..., :1])], axis=-1)


EXACT = exact_rays(CAMERA)


@pytest.mark.parametrize("camera", human36m.CAMERAS)
def test_rays_are_the_inverse_of_the_projection(camera: str) -> None:
    whole = human36m.camera_of("S7", camera)
    for corners, extra in ((False, 0), (True, 1)):
        rays = Rays.of(whole, corners)
        assert rays.plane.shape == (2, 1002 + extra, 1000 + extra)
        points = np.concatenate([rays.plane, np.ones_like(rays.plane[:1])]).transpose(1, 2, 0)
        rows, columns = np.mgrid[: 1002 + extra, : 1000 + extra]
        expected = np.stack([columns, rows], -1) + rays.offset
        assert np.abs(whole.project(points.astype(np.float64)) - expected).max() < 1e-3


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.floats(-1.5, 1.5), st.floats(-1.2, 1.2), st.floats(3, 8)),
    st.floats(0.02, 0.5),
)
def test_depth_of_a_sphere_is_exact(center: tuple[float, float, float], radius: float) -> None:
    hits = cast_one(capsule(np.array(center), np.array(center), (radius, radius), WHITE))
    b, a, c = EXACT @ np.array(center), (EXACT * EXACT).sum(-1), np.dot(center, center) - radius**2
    inside = b * b - a * c
    expected = (b - np.sqrt(np.maximum(inside, 0))) / a
    # Rays that graze the sphere within a thousandth of its size may go either way.
    clear = np.abs(inside) > 1e-3 * radius**2
    assert ((inside > 0) == hits.mask)[clear].all()
    both = (inside > 0) & hits.mask & clear
    assert np.abs(hits.depth - expected)[both].max(initial=0) < 1e-3


def test_a_sphere_is_drawn_where_its_centre_projects() -> None:
    camera = human36m.camera_of("S1", "55011271")  # full size, so that the lens moves pixels
    rays = Rays.of(camera)
    moved = []
    for center in ([0, 0, 5.0], [1.6, 0.2, 5.0], [-1.7, -1.6, 5.0], [1.2, 1.9, 5.0]):
        sphere = capsule(np.array(center), np.array(center), (0.05, 0.05), WHITE)
        window = windows_of([sphere], camera)[0]
        mask = cast([(sphere, window)], rays, (0, 0, camera.width, camera.height)).mask
        assert mask.sum() > 300
        centroid = np.argwhere(mask).mean(0)[::-1]
        truth = camera.project(np.array(center))
        assert np.abs(centroid - truth).max() < 0.15
        pinhole = np.array(center[:2]) / center[2] * camera.focal + camera.center
        moved.append(np.abs(pinhole - truth).max())
    assert max(moved) > 10  # a picture without the lens would fail


def rounded_cone_distance(p: np.ndarray, a: np.ndarray, b: np.ndarray, ra: float, rb: float) -> np.ndarray:
    """Signed distance of points (n, 3) to the hull of two spheres: the least over the spheres between them."""
    s = np.linspace(0, 1, 4001)
    axis = b - a
    along, across = (p - a) @ axis / np.linalg.norm(axis), None
    across = np.linalg.norm(p - a - along[:, None] * axis / np.linalg.norm(axis), axis=1)
    gaps = np.hypot(along[:, None] - s * np.linalg.norm(axis), across[:, None]) - (ra + s * (rb - ra))
    return gaps.min(1)


point = st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(4.5, 5.5))


@settings(deadline=None, max_examples=25)
@given(point, point, st.floats(0.03, 0.3), st.floats(0.03, 0.3), st.floats(0.3, 1.5), st.integers(0, 5))
def test_capsules_lie_where_distances_say(
    start: tuple[float, float, float], end: tuple[float, float, float], ra: float, rb: float, factor: float, seed: int
) -> None:
    a, b = np.array(start), np.array(end)
    if np.linalg.norm(b - a) < 0.05:
        b = a + np.array([0.05, 0, 0])
    axis = np.random.default_rng(seed).normal(size=3)
    shape = capsule(a, b, (ra, rb), WHITE, (axis, factor))
    hits = cast_one(shape, full=True)
    assert np.array_equal(hits.mask, cast_one(shape).mask)  # the window holds all of it
    rows, columns = np.nonzero(hits.mask)
    pick = np.random.default_rng(0).permutation(len(rows))[:40]
    points = hits.points[rows[pick], columns[pick]].astype(np.float64)
    # The map to the space in which the shape is round, written down anew.
    n = axis / np.linalg.norm(axis)
    to_round = np.eye(3) - np.outer(n, n) + np.outer(n, n) / factor
    on = rounded_cone_distance(points @ to_round, to_round @ a, to_round @ b, ra, rb)
    assert np.abs(on).max(initial=0) < 2e-5 + 1e-4 * ra
    # Nothing of the shape lies before the hit.
    for share in (0.5, 0.9, 0.99, 0.999):
        assert (rounded_cone_distance(points * share @ to_round, to_round @ a, to_round @ b, ra, rb) > 0).all()
    # Rays that go by keep clear of it.
    rows, columns = np.nonzero(~hits.mask)
    pick = np.random.default_rng(1).permutation(len(rows))[:10]
    rays = np.stack([RAYS.plane[0][rows[pick], columns[pick]], RAYS.plane[1][rows[pick], columns[pick]]], -1)
    for depth in np.linspace(3.5, 6.5, 40):
        by = np.concatenate([rays, np.ones((len(rays), 1))], -1) * depth
        assert (rounded_cone_distance(by @ to_round, to_round @ a, to_round @ b, ra, rb) > -1e-4).all()


def test_normals_are_the_surface_s_own() -> None:
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    for shape in (
        ellipsoid(np.array([0.1, -0.2, 3.0]), (0.3, 0.5, 0.2), axes, WHITE),
        capsule(np.array([-0.3, 0, 3.0]), np.array([0.4, 0.3, 3.2]), (0.3, 0.1), WHITE, (axes[0], 0.6)),
    ):
        hits = cast_one(shape)
        inner = (
            hits.mask[1:-1, 1:-1]
            & hits.mask[:-2, 1:-1]
            & hits.mask[2:, 1:-1]
            & hits.mask[1:-1, :-2]
            & hits.mask[1:-1, 2:]
        )
        across = hits.points[1:-1, 2:] - hits.points[1:-1, :-2]
        down = hits.points[2:, 1:-1] - hits.points[:-2, 1:-1]
        expected = np.cross(down, across)  # towards the camera
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True) + 1e-12
        cosine = (expected * hits.normals[1:-1, 1:-1]).sum(-1)[inner]
        assert np.median(cosine) > 0.9995
        assert np.quantile(cosine, 0.05) > 0.98


def test_an_ellipsoid_has_its_axes() -> None:
    axes = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    center, semi = np.array([0.3, 0.1, 4.0]), (0.3, 0.5, 0.1)
    hits = cast_one(ellipsoid(center, semi, axes, WHITE))
    local = (hits.points[hits.mask].astype(np.float64) - center) @ axes.T / semi
    assert np.abs((local**2).sum(1) - 1).max() < 1e-4


def test_the_nearer_shape_hides_the_farther_and_keep_opens_it() -> None:
    near = capsule(np.array([0, 0, 3.0]), np.array([0, 0, 3.0]), (0.3, 0.3), (1, 0, 0))
    far = capsule(np.array([0, 0, 5.0]), np.array([0, 0, 5.0]), (1.0, 1.0), (0, 1, 0))
    placed = list(zip((near, far), windows_of([near, far], CAMERA), strict=True))
    for order in (placed, placed[::-1]):
        hits = cast(order, RAYS, FULL)
        row, column = np.round(CAMERA.project(np.array([0, 0, 3.0]))).astype(int)[::-1]
        assert hits.colours[row, column].tolist() == [1, 0, 0]
        assert hits.depth[row, column] == pytest.approx(2.7, abs=1e-3)
    local = Local(np.eye(3), np.array([0, 0, 3.0]))
    left_half = Primitive(
        near.start, near.end, near.radii, near.warp, near.reach, near.colour, local, keep=lambda q: q[:, 0] < 0
    )
    hits = cast([(left_half, placed[0][1]), placed[1]], RAYS, FULL)
    assert hits.depth[row, column - 8] == pytest.approx(2.7, abs=0.01)
    assert hits.depth[row, column + 8] == pytest.approx(4.0, abs=0.01)


def test_moving_a_shape_moves_what_is_painted_on_it() -> None:
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    shift = np.array([0.1, 0.2, 3.0])
    local = Local(np.eye(3), np.zeros(3), 2.0)
    shape = ellipsoid(np.zeros(3), (0.3, 0.2, 0.5), np.eye(3), WHITE, local=local).moved(turn, shift)
    place = np.array([[0.1, 0.05, -0.2]])
    assert shape.local is not None
    assert shape.local(place @ turn.T + shift) == pytest.approx(place / 2, abs=1e-6)
    world = shape.warp @ (turn @ [0, 0, 0.5] + shift - shape.start)
    assert np.linalg.norm(world) == pytest.approx(1)


def test_windows() -> None:
    assert union([(0, 0, 0, 5), (3, 4, 6, 8), (5, 1, 9, 7)]) == (3, 1, 9, 8)
    assert union([]) == (0, 0, 0, 0)
    outside = capsule(np.array([40.0, 0, 5]), np.array([41.0, 0, 5]), (0.1, 0.1), WHITE)
    assert not cast_one(outside).mask.any()
