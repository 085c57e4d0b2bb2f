"""The scripts' descriptor against a loop over points, and the edges that random scenes rarely meet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.models.base import ArrayDepth
from etl.stages.blocks.compat import NAMES, describe, pixel_of, radius, whole_pixels
from schemas.features import QUANTILES


def by_hand(depth, joint, scale, confidence, draws, source):
    """Values of one joint by name, point by point; None where it isn't valid."""
    height, width = depth.shape
    if not np.isfinite(joint).all():
        return None
    x = min(max(math.trunc(float(joint[0])), 0), width - 1)
    y = min(max(math.trunc(float(joint[1])), 0), height - 1)
    r = min(max(0.04 * scale * max(1 + 3 * (1 - confidence), 0) ** 1.5, 3), 30)
    points = []
    for dx, dy in draws:
        column, row = math.trunc(x + dx), math.trunc(y + dy)
        within = dx * dx + dy * dy <= r * r and 0 <= column < width and 0 <= row < height
        if within and math.isfinite(depth[row, column]):
            points.append((float(depth[row, column]), column, row))
    found = dict.fromkeys(NAMES, 0.0)
    exact = float(depth[y, x])
    found["depth"] = exact
    if points:
        values = np.array([value for value, _, _ in points])
        found |= {name: np.percentile(values, q) for name, q in zip(QUANTILES, (10, 25, 50, 75, 90), strict=True)}
        found |= {"depth_min": found["q10"], "depth_max": found["q90"]}
        for name in (*QUANTILES, "depth_min", "depth_max"):
            _, found[f"{name}_x"], found[f"{name}_y"] = min(points, key=lambda p: abs(p[0] - found[name]))
        found |= {"mean": sum(values) / len(values), "depth": found["median"], "radius": r, "person_scale": scale}
        found["std"] = math.sqrt(sum((value - found["mean"]) ** 2 for value in values) / len(values))
        found["mad"] = np.median([abs(value - found["median"]) for value in values])
        found["occlusion_asymmetry"] = found["q10"] - found["median"]
    found["point"] = exact
    if source == "min3":
        disc = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if i * i + j * j <= 9]
        near = [float(depth[y + j, x + i]) for i, j in disc if 0 <= x + i < width and 0 <= y + j < height]
        found["depth"] = min((value for value in near if math.isfinite(value)), default=math.nan)
    return found if math.isfinite(found["depth"]) else None


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["median", "min3"]), st.sampled_from([0, 0.3, 0.95, 1]))
def test_equals_a_loop_over_the_points(seed, source, holes):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(2, 30, 2)
    depth = rng.uniform(1, 9, (height, width)).astype(np.float32)
    depth[rng.uniform(size=depth.shape) < holes] = np.nan
    joints = rng.uniform([-5, -5], [width + 5, height + 5], (2, 17, 2)).astype(np.float32)
    joints[0, 4, 1] = np.nan
    confidence = rng.uniform(0, 1.4, (2, 17)).astype(np.float32)
    # Whole numbers reach the rim of the disc and the edges of the image exactly.
    draws = rng.integers(-6, 7, (2, 17, 12, 2)) if rng.random() < 0.5 else rng.uniform(-8, 8, (2, 17, 12, 2))
    values, valid = describe(ArrayDepth(depth), joints, confidence, draws=draws, depth_source=source)
    assert values.dtype == np.float32
    for p, j in np.ndindex(2, 17):
        scale = math.dist(joints[p, 8].astype(float), joints[p, 0].astype(float))
        expected = by_hand(depth, joints[p, j], scale, float(confidence[p, j]), draws[p, j].tolist(), source)
        assert valid[p, j] == (expected is not None)
        if expected is None:
            assert np.isnan(values[p, j]).all()
            continue
        for name, value in zip(NAMES, values[p, j].tolist(), strict=True):
            assert value == pytest.approx(expected[name], rel=1e-6, abs=1e-6, nan_ok=True), name


def test_dtypes_of_nobody_and_of_whole_pixels():
    values, valid = describe(ArrayDepth(np.ones((4, 5), np.float32)), np.zeros((0, 17, 2)), np.zeros((0, 17)))
    assert (values.dtype, valid.dtype) == (np.float32, bool)
    assert whole_pixels(np.array([1.5, 2.5]), (4, 5)).dtype == np.float32
    assert pixel_of(np.array([1.5, np.inf]), (4, 5)).tolist() == [1, 3]


def test_the_radius_has_the_precision_of_float64():
    confidence, scale = np.float32(0.9), np.float32(123.4)
    expected = 0.04 * float(scale) * (1 + 3 * (1 - float(confidence))) ** 1.5
    assert float(radius(confidence, scale)) == pytest.approx(expected, rel=1e-14)


def test_the_default_seed_is_0():
    depth = ArrayDepth(np.random.default_rng(0).uniform(1, 9, (60, 80)).astype(np.float32))
    joints = np.full((1, 17, 2), 30.0)
    joints[0, 8, 1] = 10
    values, _ = describe(depth, joints, np.ones((1, 17)))
    np.testing.assert_array_equal(values, describe(depth, joints, np.ones((1, 17)), seed=0)[0])
