from __future__ import annotations

import numpy as np
import pytest

from etl.stages.blocks.vectors import RowSettings, detected_part, has_statistics, predictions, to_dtype, truth
from schemas.features import BASIC_FEATURES, STATISTICS, Status

NAMES = (*BASIC_FEATURES, *STATISTICS)


def by_hand(names=NAMES) -> np.ndarray:
    """Two rows whose every value tells its feature: the n-th feature of joint j is n + j / 100 (row 1: plus 100)."""
    values = np.arange(len(names), dtype=np.float32) + np.arange(17, dtype=np.float32)[:, None] / 100
    values = np.stack([values, values + 100])
    values[..., names.index("confidence")] = 0.5
    return values


def rows(values=None, names=NAMES, status=(0, 0), valid=None, **settings):
    values = by_hand(names) if values is None else values
    valid = np.ones((len(values), 17), bool) if valid is None else valid
    return predictions(values, names, np.array(status, np.int8), valid, RowSettings(**settings))


def at(name, joint=3, row=0):
    return by_hand()[row, joint, NAMES.index(name)]


def test_basic_arrays():
    found = rows()
    assert found["predicted_keypoints"][1, 3].tolist() == [at("x", row=1), at("y", row=1)]
    assert found["predicted_da_depth"][0, 3] == at("depth")
    assert (found["depth_min"][0, 3], found["depth_max"][0, 3]) == (at("depth_min"), at("depth_max"))
    assert found["xycd"][0, 3].tolist() == [at("x"), at("y"), 0.5, at("depth")]
    assert set(rows(by_hand(BASIC_FEATURES), BASIC_FEATURES)) == set(found) - {
        "summary_casp_descriptor_10d",
        "casp_descriptors",
    }


def test_vectors_by_hand():
    found = rows()
    summary = ["x", "y", "confidence", "radius", "q10", "q25", "median", "q75", "q90", "point"]
    assert found["summary_casp_descriptor_10d"][0, 3].tolist() == [at(n) for n in summary]
    vector = []
    for quantile in ("q10", "q25", "median", "q75", "q90", "median"):
        vector += [quantile, f"{quantile}_x", f"{quantile}_y"]
    assert found["casp_descriptors"][0, 3].tolist() == [at(n) for n in [*vector, "person_scale"]]


def test_true_extremes_in_the_place_of_quantiles():
    plain, found = rows(), rows(casp_extremes="minmax")
    summary, vector = found["summary_casp_descriptor_10d"], found["casp_descriptors"]
    assert summary[0, 3, [4, 8]].tolist() == [at("depth_min"), at("depth_max")]
    assert vector[0, 3, :3].tolist() == [at("depth_min"), at("depth_min_x"), at("depth_min_y")]
    assert vector[0, 3, 12:15].tolist() == [at("depth_max"), at("depth_max_x"), at("depth_max_y")]
    others = np.setdiff1d(np.arange(19), [0, 1, 2, 12, 13, 14])
    np.testing.assert_array_equal(vector[..., others], plain["casp_descriptors"][..., others])


@pytest.mark.parametrize("status", [s for s in Status if s != Status.OK])
def test_rows_that_are_not_ok_are_zeros_and_the_others_stay(status):
    values = by_hand()
    values[0] = np.nan
    found, other = rows(values, status=(status, 0)), rows()
    assert found["valid_detection"].tolist() == [False, True]
    for name, array in found.items():
        assert not array[0].any(), name
        np.testing.assert_array_equal(array[1], other[name][1])


def test_joints_without_depth_are_zero_in_depth_only():
    values, valid = by_hand(), np.ones((2, 17), bool)
    values[0, 3, 3:] = np.nan
    valid[0, 3] = False
    found = rows(values, valid=valid)
    assert found["xycd"][0, 3].tolist() == [at("x"), at("y"), 0.5, 0]
    assert found["joint_valid"][0].tolist() == [True] * 3 + [False] + [True] * 13
    part = detected_part(found, None, RowSettings(part="detected"))
    assert part[0, 3].tolist() == [at("x"), at("y"), 0]
    assert part[0, 4, 2] == 1


def test_confidences_are_clipped_unless_compat():
    values = by_hand()
    values[0, :2, 2] = [1.25, -0.25]
    found = rows(values)
    assert found["predicted_keypoints_score"][0, :3].tolist() == [1, 0, 0.5]
    assert found["xycd"][0, :2, 2].tolist() == [1, 0]
    raw = rows(values, compat="auglift")
    assert raw["predicted_keypoints_score"][0, :2].tolist() == [1.25, -0.25]
    assert values[0, 0, 2] == 1.25  # the input stays as it is


def test_compat_has_float16_vectors_and_the_truths_visibility():
    found = rows(compat="auglift", status=(1, 0))
    assert found["casp_descriptors"].dtype == found["summary_casp_descriptor_10d"].dtype == np.float16
    visibility = np.tile(np.arange(17) % 2, (2, 1)).astype(np.float32)
    part = detected_part(found, visibility, RowSettings(part="detected", compat="auglift"))
    np.testing.assert_array_equal(part[..., 2], visibility)
    assert not part[0, :, :2].any()
    part = detected_part(found, visibility, RowSettings(part="detected"))
    assert part[:, :, 2].tolist() == [[0] * 17, [1] * 17]


def test_float16_does_not_overflow():
    assert to_dtype(np.array([7e4, -7e4, 513.3]), "float16").tolist() == [65504, -65504, 513.5]


def test_statistics_need_all_their_features():
    assert has_statistics(NAMES)
    assert not has_statistics(BASIC_FEATURES)
    assert not has_statistics([n for n in NAMES if n != "q25_x"])


def test_truth_with_unknown_joints():
    xy, xyz = np.ones((2, 17, 2)), np.full((2, 17, 3), 2.0)
    xyz[1, 5, 0] = np.nan
    visibility = np.full((2, 17), 1.0)
    visibility[0, 7] = 0
    found = truth(xy, xyz, visibility, np.array([[1.0, 2], [np.nan, np.nan]]), np.array([3.0, np.nan]))
    assert {name: (a.shape, a.dtype.name) for name, a in found.items()} == {
        "center": ((2, 2), "float32"),
        "scale": ((2,), "float32"),
        "part": ((2, 17, 3), "float32"),
        "S": ((2, 17, 4), "float32"),
    }
    assert found["S"][0, 0].tolist() == [2, 2, 2, 1]
    assert found["S"][1, 5].tolist() == [0, 2, 2, 0]
    assert found["part"][1, 5].tolist() == [1, 1, 0]
    assert found["part"][0, 7].tolist() == [1, 1, 0]
    assert found["scale"].tolist() == [3, 0]
