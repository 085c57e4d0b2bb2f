from __future__ import annotations

import json

import numpy as np
import pytest

from schemas import xycd
from schemas.errors import SchemaError
from schemas.features import BASIC_FEATURES, STATISTICS


@pytest.fixture
def full() -> dict[str, np.ndarray]:
    return xycd.mock(5, statistics=True, pose_channels=6, depth_channels=4)


def test_the_mock_has_every_key_and_is_valid(full):
    assert set(full) == set(xycd.KEYS)
    xycd.validate(full)
    assert not full["valid_detection"][-1]
    assert full["valid_detection"][0]


def test_keys_that_are_off_are_absent():
    arrays = xycd.mock(2, truth=False)
    xycd.validate(arrays)
    assert {name for name, key in xycd.KEYS.items() if key.group == "always"} == set(arrays)


def test_a_file_and_a_folder_validate(tmp_path, full):
    np.savez(tmp_path / "a.npz", **full)
    xycd.validate(tmp_path / "a.npz")
    folder = tmp_path / "b"
    folder.mkdir()
    for name, array in full.items():
        np.save(folder / f"{name}.npy", array)
    xycd.validate(folder)
    (folder / "S.npy").unlink()
    xycd.validate(folder)  # a dataset without ground truth has none
    (folder / "xycd.npy").unlink()
    with pytest.raises(SchemaError, match="'xycd'"):
        xycd.validate(folder)


def test_what_is_no_npz_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(SchemaError, match="npz or a folder"):
        xycd.validate(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("frame", np.zeros(5, np.int64), "'frame' must be int32"),
        ("S", np.zeros((5, 17, 3), np.float32), "'S' must have the shape"),
        ("person", np.zeros(4, np.int32), "N = 5"),
        ("rtm_joint_feats", np.zeros((5, 17, 6), np.float32), "float16"),
        ("xycd", np.ones((5, 17, 4), np.float32), "zero where there is no valid detection"),
        ("predicted_da_depth", np.full((5, 17), np.nan, np.float32), "'predicted_da_depth'"),
        ("joint_valid", np.ones((5, 17), bool), "No joint may be valid"),
        ("depth", np.zeros(5), "'depth'"),
    ],
)
def test_what_does_not_fit_is_named(full, name, value, message):
    with pytest.raises(SchemaError, match=message):
        xycd.validate({**full, name: value})


def test_confidences_lie_in_0_to_1_unless_compat(full):
    full["predicted_keypoints_score"][0, 0] = 1.2
    with pytest.raises(SchemaError, match="0 to 1"):
        xycd.validate(full)
    full["metadata"] = np.array(json.dumps({"compat": "auglift"}))
    xycd.validate(full)


def test_vectors_are_made_of_features():
    features = {*BASIC_FEATURES, *STATISTICS}
    assert len(xycd.SUMMARY_COLUMNS) == 10
    assert len(xycd.VECTOR_COLUMNS) == 19
    assert {*xycd.SUMMARY_COLUMNS, *xycd.VECTOR_COLUMNS, *xycd.MINMAX_COLUMNS.values()} <= features
    # Where training reads them: v0 (summary 4, 8, 9), spatial (vector 0-2 and 12-14).
    assert [xycd.SUMMARY_COLUMNS[i] for i in (2, 9, 4, 8)] == ["confidence", "point", "q10", "q90"]
    assert [xycd.VECTOR_COLUMNS[i] for i in (0, 1, 2, 12, 13, 14)] == ["q10", "q10_x", "q10_y", "q90", "q90_x", "q90_y"]
