"""Every expected value here is worked out by hand from the published scripts' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etl.models.base import ArrayDepth
from etl.stages.blocks.compat import NAMES, describe, draw, pixel_of, radius, whole_pixels
from etl.stages.blocks.vectors import RowSettings, predictions
from schemas.features import BASIC_FEATURES, STATISTICS

PELVIS, THORAX = 0, 8


def standing(x: float, y: float, torso: float) -> np.ndarray:
    joints = np.full((1, 17, 2), [x, y], np.float32)
    joints[0, THORAX] = [x, y - torso]
    return joints


def values_of(depth, joints, draws, joint=PELVIS, confidence=1.0, **options) -> dict[str, float]:
    draws = np.tile(np.array(draws, float), (1, 17, 1, 1))
    values, valid = describe(ArrayDepth(depth), joints, np.full((1, 17), confidence), draws=draws, **options)
    assert valid[0, joint]
    return dict(zip(NAMES, values[0, joint].tolist(), strict=True))


# A map whose depth tells its pixel: 1 m a row and 1 mm a column; exact in float64, so compare to 1e-6.
DEPTH = (np.arange(60)[:, None] + np.arange(80) / 1000).astype(np.float32)


def test_pixels_are_truncated_toward_zero_and_clamped():
    joints = np.array([[3.99, 5.01], [-0.9, -7.2], [80.5, 59.99], [79.999, 60.0], [np.nan, 1.5]])
    assert pixel_of(joints, DEPTH.shape).tolist() == [[3, 5], [0, 0], [79, 59], [79, 59], [0, 1]]


@pytest.mark.parametrize(
    ("c", "scale", "expected"),
    [
        (1.0, 200, 8.0),
        (0.9, 200, 8 * 1.3**1.5),
        (0.7, 200, 8 * 1.9**1.5),
        (0.5, 200, 30),
        (1.2, 400, 16 * 0.4**1.5),  # not clipped to 1, which would give 16
        (1.3, 200, 3),
        (1.5, 200, 3),
        (0.0, 10, 0.4 * 8),
    ],
)
def test_radius(c, scale, expected):
    assert float(radius(np.array(c), np.array(scale))) == pytest.approx(expected)


def test_five_points_by_hand():
    # Radius 4 (torso 100 px). Pixel (20, 30), from (20.9, 30.9). Of seven draws the fifth is outside the disc.
    joints = standing(20.9, 30.9, 100)
    draws = [(0.5, 0.5), (-0.5, 0), (3.9, 0.2), (0, -3.5), (3, 3), (0, 1.0), (0.4, 0.9)]
    # Pixels: (20, 30), (19, 30), (23, 30), (20, 26), -, (20, 31), (20, 30).
    found = values_of(DEPTH, joints, draws)
    samples = sorted([30.020, 30.019, 30.023, 26.020, 31.020, 30.020])
    assert samples == [26.020, 30.019, 30.020, 30.020, 30.023, 31.020]
    q10 = (26.020 + 30.019) / 2  # place 0.1 * 5 = 0.5
    q25 = 30.019 + 0.25 * 0.001  # place 1.25
    q75 = 30.020 + 0.75 * 0.003  # place 3.75
    q90 = (30.023 + 31.020) / 2  # place 4.5
    expected = {"q10": q10, "q25": q25, "median": 30.020, "q75": q75, "q90": q90, "depth_min": q10, "depth_max": q90}
    expected |= {"depth": 30.020, "point": 30.020, "radius": 4, "person_scale": 100}
    # Distances from the median: 0, 0, 0.001, 0.003, 1, 4.
    expected |= {"mad": 0.002, "occlusion_asymmetry": q10 - 30.020}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=3e-6), name
    # Nearest samples: to q25 30.019 (by 0.25 mm), to the median the first draw, to q75 30.020 or 30.023: 30.023.
    positions = {"q25": (19, 30), "median": (20, 30), "q75": (23, 30)}
    for name, position in positions.items():
        assert (found[f"{name}_x"], found[f"{name}_y"]) == position


def test_of_equally_near_samples_the_first_drawn_counts():
    depth = np.full((60, 80), 5, np.float32)
    found = values_of(depth, standing(20, 30, 100), [(2.5, 0), (-2.5, 0), (0, 0)])
    assert (found["median_x"], found["median_y"]) == (22, 30)
    assert found["mad"] == found["occlusion_asymmetry"] == 0


def test_truncation_of_points_pulls_toward_zero():
    # From pixel (0, 0), a draw of (-0.9, -0.9) is truncated into the image, one of (-1, 0) isn't in it.
    found = values_of(DEPTH, standing(0, 0, 100), [(-0.9, -0.9), (-1.0, 0), (0, -1.5), (1.9, 0)])
    assert found["q10"] == pytest.approx(0 + 0.1 * 0.001)
    assert found["q90"] == pytest.approx(0.9 * 0.001)
    assert (found["q90_x"], found["q90_y"]) == (1, 0)


def test_without_points_the_exact_pixel_is_left():
    found = values_of(DEPTH, standing(20, 30, 100), [(4, 4), (-4, 4)])
    assert found["depth"] == found["point"] == np.float32(30.020)
    assert {found[name] for name in NAMES if name not in ("depth", "point")} == {0}


def test_min3_counts_29_pixels():
    depth = np.full((60, 80), 5, np.float32)
    # At 3 px; then at 3.16 px, which is outside.
    depth[33, 20], depth[31, 23] = 4, 3
    assert values_of(depth, standing(20, 30, 100), [(0, 0)], depth_source="min3")["depth"] == 4
    offsets = [(x, y) for x in range(-4, 5) for y in range(-4, 5) if math.hypot(x, y) <= 3]
    assert len(offsets) == 29
    depth[:] = 5
    for x, y in offsets:
        depth[30 + y, 20 + x] = 6
    assert values_of(depth, standing(20, 30, 100), [(0, 0)], depth_source="min3")["depth"] == 6
    corner = values_of(DEPTH, standing(79, 59, 100), [(0, 0)], depth_source="min3")
    assert corner["depth"] == np.float32(56.079)


def test_the_script_for_3dpw_keeps_whole_pixels_inside_the_image_and_measures_between_them():
    joints = standing(20.9, 30.0, 10.5)  # thorax at y = 19.5
    joints[0, 3], joints[0, 6], joints[0, 9] = (-4.2, 70.3), (100.7, 59.9), (np.nan, 5.0)
    whole = whole_pixels(joints, DEPTH.shape)
    height, width = DEPTH.shape
    np.testing.assert_array_equal(whole[0, 8], [20, 19])
    np.testing.assert_array_equal(whole[0, 3], [0, min(70, height - 1)])
    np.testing.assert_array_equal(whole[0, 6], [min(100, width - 1), min(59, height - 1)])
    np.testing.assert_array_equal(np.isnan(whole[0, 9]), [True, False])
    assert values_of(DEPTH, joints, [(0, 0)])["person_scale"] == np.float32(10.5)
    assert values_of(DEPTH, whole, [(0, 0)])["person_scale"] == 11


def test_vectors_as_published():
    joints = standing(513.3, 30.9, 100)
    depth = np.full((60, 2000), 5.003, np.float32)
    depth[30, 512] = 2
    draws = np.tile([(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0)], (1, 17, 1, 1))
    confidence = np.full((1, 17), 1.1, np.float32)
    values, valid = describe(ArrayDepth(depth), joints, confidence, draws=draws)
    full = np.concatenate([joints, confidence[..., None], values], axis=-1).astype(np.float32)
    names = (*BASIC_FEATURES, *STATISTICS)
    found = predictions(full, names, np.zeros(1, np.int8), valid, RowSettings(compat="auglift"))
    # Radius 4 * 0.7^1.5 = 2.34, so 3. Samples 5.003, 2, 5.003 at x = 513, 512, 514.
    # q10 = 2 + 0.2 * 3.003, q25 = 2 + 0.5 * 3.003; float16 steps by 0.5 px above 512 and by 3.9 mm above 4 m.
    q10, q25, high = 2.6006, 3.5015, 5.003
    summary = [513.3, 30.9, 1.1, 3, q10, q25, high, high, high, 5.003]
    assert found["summary_casp_descriptor_10d"][0, PELVIS].tolist() == np.float16(summary).tolist()
    assert found["summary_casp_descriptor_10d"][0, PELVIS, 0] == 513.5
    vector = [q10, 512, 30, q25]
    found_vector = found["casp_descriptors"][0, PELVIS]
    assert found_vector[:3].tolist() == np.float16(vector[:3]).tolist()
    assert found_vector[3] == np.float16(q25)
    assert found_vector[6:].tolist() == np.float16([high, 513, 30] * 4 + [100]).tolist()
    assert found["predicted_keypoints_score"][0, PELVIS] == np.float32(1.1)
    assert found["predicted_da_depth"][0, PELVIS] == np.float32(5.003)


def test_missing_joints_and_people():
    joints = standing(20, 30, 100)
    joints[0, 5] = np.nan
    values, valid = describe(ArrayDepth(DEPTH), joints, np.ones((1, 17)))
    assert np.flatnonzero(~valid[0]).tolist() == [5]
    assert np.isnan(values[0, 5]).all()
    assert np.isfinite(values[0, 4]).all()
    values, valid = describe(ArrayDepth(DEPTH), np.zeros((0, 17, 2)), np.zeros((0, 17)))
    assert values.shape == (0, 17, len(NAMES))


def test_draws_depend_on_the_seed_alone_and_fill_the_square():
    radii = np.array([[3.0, 30.0]])
    draws = draw(radii, (7, 1))
    np.testing.assert_array_equal(draws, draw(radii, (7, 1)))
    assert (draws != draw(radii, (7, 2))).all()
    assert draws.shape == (1, 2, 100, 2)
    assert (np.abs(draws[0]).max(axis=(1, 2)) <= radii[0]).all()
    assert (np.abs(draws[0]).max(axis=(1, 2)) > 0.9 * radii[0]).all()
    inside = (np.linalg.norm(draw(np.full(200, 10.0), 0), axis=-1) <= 10).mean()
    assert inside == pytest.approx(math.pi / 4, abs=0.01)  # 78 of 100 survive
