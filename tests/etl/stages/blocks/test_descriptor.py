from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.config import DescriptorConfig
from etl.models.base import ArrayDepth
from etl.stages.blocks import descriptor
from etl.stages.blocks.descriptor import describe_frames, names_of, person_scale, pixel_of, radius
from schemas.features import BASIC_FEATURES, QUANTILES, STATISTICS

WITH_STATISTICS = DescriptorConfig(statistics=True)


def describe(depth, joints, confidence, config=None):
    """Values and valid joints of the people of one frame."""
    (found,) = describe_frames([depth], [joints], [confidence], config)
    return found


def brute_force(depth, joint, r, config, own=np.nan):
    """The descriptor of one joint, pixel by pixel as the module's text states it; None where not valid."""
    height, width = depth.shape
    if not all(math.isfinite(v) for v in joint):
        return None
    cx = min(max(math.floor(float(joint[0]) + 0.5), 0), width - 1)
    cy = min(max(math.floor(float(joint[1]) + 0.5), 0), height - 1)
    pixels = []
    for y in range(height):
        for x in range(width):
            away = (x - cx) ** 2 + (y - cy) ** 2
            if away <= r * r and math.isfinite(depth[y, x]):
                pixels.append((float(depth[y, x]), x, y, away))
    if not pixels:
        if not math.isfinite(own):
            return None
        result = dict.fromkeys(("depth", "depth_min", "depth_max", "mean", "point", *QUANTILES), own)
        result |= dict.fromkeys(("std", "mad", "occlusion_asymmetry"), 0.0)
        for name in (*QUANTILES, "depth_min", "depth_max"):
            result |= {f"{name}_x": cx, f"{name}_y": cy}
        return result
    values = np.array([p[0] for p in pixels])
    result = {"depth_min": min(values), "depth_max": max(values), "mean": values.mean(), "std": values.std()}
    for name, q in zip(QUANTILES, (10, 25, 50, 75, 90), strict=True):
        result[name] = np.percentile(values, q)
    result["mad"] = np.median(np.abs(values - result["median"]))
    result["occlusion_asymmetry"] = result["q10"] - result["median"]
    result["point"] = min(pixels, key=lambda p: p[3])[0]
    for name in (*QUANTILES, "depth_min", "depth_max"):
        _, x, y, _ = min(pixels, key=lambda p: abs(p[0] - result[name]))
        result |= {f"{name}_x": x, f"{name}_y": y}
    near = [
        float(depth[y, x])
        for y in range(height)
        for x in range(width)
        if (x - cx) ** 2 + (y - cy) ** 2 <= 9 and math.isfinite(depth[y, x])
    ]
    choices = {"point": result["point"], "median": result["median"], "min3": min(near, default=result["point"])}
    result["depth"] = choices[config.depth_source]
    return result


@st.composite
def scenes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    levels = draw(st.sampled_from([0, 3, 8]))  # few levels make ties
    depth = rng.integers(0, levels, (height, width)) / 4 + 2 if levels else rng.uniform(1, 9, (height, width))
    depth[rng.uniform(size=depth.shape) < draw(st.sampled_from([0, 0.2, 0.9, 1]))] = np.nan
    if draw(st.booleans()):
        depth[rng.integers(height), rng.integers(width)] = np.inf
    people = draw(st.integers(1, 2))
    joints = rng.uniform([-10, -10], [width + 10, height + 10], (people, 17, 2))
    if draw(st.booleans()):
        joints = np.round(joints * 2) / 2  # exact halves
    if draw(st.booleans()):
        joints[0, rng.integers(1, 7)] = np.nan
    own = rng.uniform(1, 9, (people, 17)) if draw(st.booleans()) else None
    if own is not None:
        own[0, rng.integers(17)] = np.nan
    config = DescriptorConfig(
        radius=draw(st.sampled_from(["adaptive", "linear"])),
        radius_min=draw(st.sampled_from([0.5, 1.0, 3.0])),
        radius_max=draw(st.sampled_from([4.0, 7.3, 12.0])),
        depth_source=draw(st.sampled_from(["point", "median", "min3"])),
        statistics=draw(st.booleans()),
    )
    confidence = rng.uniform(-0.2, 1.3, (people, 17)).astype(np.float32)
    field = ArrayDepth(depth.astype(np.float32), None if own is None else own.astype(np.float32))
    return field, joints.astype(np.float32), confidence, config


@settings(deadline=None, max_examples=150)
@given(scenes())
def test_equals_a_loop_over_all_pixels(scene):
    field, joints, confidence, config = scene
    values, valid = describe(field, joints, confidence, config)
    names = names_of(config)
    assert values.shape == (*joints.shape[:2], len(names))
    assert values.dtype == np.float32
    scale = person_scale(joints)
    radii = radius(confidence, scale[:, None], config)
    for p, j in np.ndindex(joints.shape[:2]):
        own = np.nan if field.joint_depth is None else float(field.joint_depth[p, j])
        expected = brute_force(field.values, joints[p, j], radii[p, j], config, own)
        found = dict(zip(names, values[p, j], strict=True))
        if config.statistics:
            assert found.pop("radius") == np.float32(radii[p, j])
            assert found.pop("person_scale") == np.float32(scale[p])
        assert valid[p, j] == (expected is not None)
        if expected is None:
            assert np.isnan(list(found.values())).all()
            continue
        for name, value in found.items():
            if name in ("mean", "std"):  # sums depend on their order
                assert value == pytest.approx(expected[name], rel=1e-6, abs=1e-6)
            else:
                assert value == np.float32(expected[name]), name


@settings(deadline=None, max_examples=50)
@given(st.lists(scenes(), min_size=1, max_size=4), st.booleans(), st.sampled_from([120_000, 1000]))
def test_frames_together_have_the_values_that_they_have_alone(several, statistics, at_once):
    config = several[0][3].model_copy(update={"statistics": statistics})
    fields, joints, confidence = ([scene[i] for scene in several] for i in range(3))
    joints[0], confidence[0] = joints[0][:0], confidence[0][:0]  # a frame without anybody
    if fields[0].joint_depth is not None:
        fields[0] = ArrayDepth(fields[0].values, fields[0].joint_depth[:0])
    with mock.patch("etl.stages.blocks.extremes._AT_ONCE", at_once):
        together = describe_frames(fields, joints, confidence, config)
    assert len(together) == len(several)
    for (values, valid), field, places, scores in zip(together, fields, joints, confidence, strict=True):
        alone = describe(field, places, scores, config)
        np.testing.assert_array_equal(values, alone[0])
        np.testing.assert_array_equal(valid, alone[1])


@settings(deadline=None, max_examples=100)
@given(
    c=st.floats(-0.5, 1.5, width=32),
    s=st.floats(0, 1000, width=32),
    low=st.floats(1, 5),
    high=st.floats(5, 50),
)
def test_radius_by_its_formulas(c, s, low, high):
    clipped = min(max(c, 0.0), 1.0)
    adaptive = DescriptorConfig(radius_min=low, radius_max=high)
    expected = min(max(0.04 * s * (1 + 3 * (1 - clipped)) ** 1.5, low), high)
    assert float(radius(np.float32(c), np.float32(s), adaptive)) == pytest.approx(expected, rel=1e-12)
    linear = DescriptorConfig(radius="linear", radius_min=low, radius_max=high)
    assert float(radius(np.float32(c), np.float32(s), linear)) == pytest.approx(low + (1 - clipped) * (high - low))


def test_radius_as_published_for_a_torso_of_200_px():
    radii = radius(np.array([1, 0.9, 0.7, 0.5, 0.0, 1.4]), np.array(200.0))
    assert radii == pytest.approx([8, 11.857, 20.95, 30, 30, 8], abs=5e-3)


def test_radius_of_an_unknown_confidence_or_scale():
    assert radius(np.array(np.nan), np.array(50.0)) == radius(np.array(0.0), np.array(50.0)) == 16
    assert radius(np.array(0.0), np.array(np.nan)) == 3


def test_pixels_are_rounded_half_up_and_clamped():
    joints = np.array([[0.49, 0.5], [-0.5, -3], [8.5, 1e30], [-np.inf, np.inf], [np.nan, 2]])
    assert pixel_of(joints, (6, 9)).tolist() == [[0, 1], [0, 0], [8, 5], [0, 5], [0, 2]]


def standing(x: float, y: float, torso: float = 50.0) -> np.ndarray:
    """All joints at one place, but the thorax above, so that the scale is known."""
    joints = np.full((1, 17, 2), [x, y], np.float32)
    joints[0, 8] = [x, y - torso]
    return joints


def values_at(depth, joint=0, config=WITH_STATISTICS, confidence=1.0, where=(60, 60), torso=100.0):
    values, valid = describe(ArrayDepth(depth), standing(*where, torso), np.full((1, 17), confidence), config)
    assert valid[0, joint]
    return dict(zip(names_of(config), values[0, joint].tolist(), strict=True))


def test_a_plane_has_the_extremes_of_its_slope():
    y, x = np.mgrid[:120, :120].astype(np.float32)
    found = values_at(2 + x / 64 + y / 64)  # torso of 100 px and confidence 1: radius 4
    assert found["radius"] == 4
    assert found["person_scale"] == 100
    assert found["depth"] == found["median"] == found["mean"] == 2 + 120 / 64
    # The disc of radius 4 reaches furthest along the diagonal at (+-3, +-2) and (+-2, +-3).
    assert found["depth_min"] == 2 + 115 / 64
    assert found["depth_max"] == 2 + 125 / 64
    assert (found["depth_min_x"], found["depth_min_y"]) == (58, 57)
    assert (found["depth_max_x"], found["depth_max_y"]) == (63, 62)


def test_a_step_is_seen_only_within_the_radius():
    depth = np.full((120, 120), 5, np.float32)
    depth[:, 65:] = 2  # 5 px to the right of the joint
    assert values_at(depth)["depth_min"] == 5
    assert values_at(depth, torso=125.0)["depth_min"] == 2  # radius 5 reaches it with one pixel
    found = values_at(depth, torso=125.0)
    assert (found["depth_min_x"], found["depth_min_y"]) == (65, 60)
    assert found["depth"] == found["depth_max"] == found["median"] == 5


def test_sources_of_depth():
    depth = np.full((120, 120), 5, np.float32)
    depth[60, 60], depth[60, 63], depth[60, 64] = 6, 4, 3
    expected = {"point": 6, "median": 5, "min3": 4}
    for source, value in expected.items():
        for statistics in (False, True):
            config = DescriptorConfig(depth_source=source, statistics=statistics)
            found = values_at(depth, config=config)
            assert found["depth"] == value
            assert found["depth_min"] == 3
            assert found["depth_max"] == 6
        assert found["point"] == 6


def test_the_point_moves_to_the_nearest_finite_pixel():
    depth = np.full((120, 120), np.nan, np.float32)
    depth[60, 62], depth[58, 60], depth[60, 57] = 7, 8, 9
    found = values_at(depth)
    assert found["depth"] == 8  # as near as (62, 60), and first in row-major order
    assert (found["depth_min"], found["depth_max"]) == (7, 9)


def test_without_finite_pixels_the_estimators_own_depth_counts():
    depth = np.full((50, 50), np.nan, np.float32)
    own = np.full((1, 17), np.nan, np.float32)
    own[0, 5] = 3.25
    values, valid = describe(ArrayDepth(depth, own), standing(20, 20, 10), np.ones((1, 17)), WITH_STATISTICS)
    assert np.flatnonzero(valid[0]).tolist() == [5]
    found = dict(zip(names_of(WITH_STATISTICS), values[0, 5].tolist(), strict=True))
    assert {found[n] for n in ("depth", "depth_min", "depth_max", "mean", "point", *QUANTILES)} == {3.25}
    assert found["std"] == found["mad"] == found["occlusion_asymmetry"] == 0
    assert (found["q90_x"], found["q90_y"]) == (20, 20)
    assert np.isnan(values[0, 4, names_of(WITH_STATISTICS).index("depth")])


def test_a_joint_outside_has_the_depth_of_the_nearest_pixel():
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    values, valid = describe(ArrayDepth(depth), np.full((1, 17, 2), [99.0, 1.2]), np.ones((1, 17)))
    assert valid.all()
    assert (values[..., 0] == 7).all()


def test_names_and_nobody():
    assert names_of(DescriptorConfig()) == BASIC_FEATURES[3:]
    assert names_of(WITH_STATISTICS) == (*BASIC_FEATURES[3:], *STATISTICS)
    values, valid = describe(ArrayDepth(np.ones((5, 5), np.float32)), np.zeros((0, 17, 2)), np.zeros((0, 17)))
    assert values.shape == (0, 17, 3)
    assert valid.shape == (0, 17)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([DescriptorConfig(), DescriptorConfig(depth_source="min3")]))
def test_looking_twice_finds_the_same(seed: int, config: DescriptorConfig) -> None:
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-10, 210, (2, 17, 2)).astype(np.float32)
    confidence = np.where(rng.uniform(size=(2, 17)) < 0.8, 0.99, 0.1)
    depth = rng.uniform(1, 9, (200, 200)).astype(np.float32)
    depth[rng.uniform(size=depth.shape) < 0.3] = np.nan
    found = []
    for worth in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(descriptor, "_SPLIT_GAIN", worth)
            found.append(describe(ArrayDepth(depth), joints, confidence, config))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
