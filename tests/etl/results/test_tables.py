from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from etl.results.features import open_features
from etl.results.tables import GROUPS, summary_table, to_table
from schemas.features import Status
from schemas.skeletons import H36M_17
from tests.etl import stores

NUMBERS = [
    "sequences", "frames", "ok", "failed", "confidence", "depth_min", "depth_max", "error_px", "error_px_median",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 sequences of 20 frames; frames 3 and 19 failed."""
    root = tmp_path_factory.mktemp("tables") / "w"
    failed = {3: Status.NO_PERSON, 19: Status.DECODE_ERROR}
    stores.estimate(root, stores.annotate(root, stores.keys()), failed)
    return root


@pytest.mark.parametrize(
    ("group_by", "names", "groups"),
    [
        ("sequence", ["subject", "action", "subaction", "camera"], 8),
        ("action", ["action"], 2),
        ("subject", ["subject"], 2),
        ("camera", ["camera"], 2),
        ("split", ["split"], 2),
        ("joint", ["joint"], 17),
    ],
)
def test_groups(root: Path, group_by: str, names: list[str], groups: int) -> None:
    assert group_by in GROUPS
    table = summary_table(open_features(root), group_by)
    assert list(table.columns) == names + NUMBERS
    assert len(table) == groups
    frames = 160 if group_by == "joint" else 160 // groups
    assert set(table["frames"]) == {frames}
    assert set(table["failed"]) == {frames // 10}
    assert (table["frames"] == table["ok"] + table["failed"]).all()
    assert set(table["sequences"]) == {8 if group_by == "joint" else 8 // groups}
    np.testing.assert_allclose(table["depth_min"], 4.0)
    np.testing.assert_allclose(table["depth_max"], 4.18)
    np.testing.assert_allclose(table["error_px"], 5.0, rtol=1e-4)
    np.testing.assert_allclose(table["error_px_median"], 5.0, rtol=0.01)
    expected = 0.05 * np.arange(1, 18) if group_by == "joint" else 0.45
    np.testing.assert_allclose(table["confidence"], expected, rtol=1e-6)


def test_only_joints_that_fulfil_the_condition_count(root: Path) -> None:
    selected = open_features(root).sel(where="confidence < 0.12 and depth > 4.095")
    table = summary_table(selected, "joint").set_index("joint")
    assert table.loc["pelvis", "frames"] == table.loc["right_hip", "frames"] == 8 * 9
    assert table.loc["head", "frames"] == table.loc["head", "sequences"] == 0
    assert np.isnan(table.loc["head", "confidence"])
    (line,) = summary_table(selected.sel(subject="S1"), "subject").to_dict("records")
    assert (line["frames"], line["failed"], line["sequences"]) == (36, 0, 4)
    assert line["confidence"] == pytest.approx(0.075)
    assert line["depth_min"] == pytest.approx(4.1)


def test_the_median_is_that_of_the_errors(tmp_path: Path) -> None:
    (part, *_) = stores.annotate(tmp_path, stores.keys(subjects=("S1",)), frames=8)
    ds = stores.features_of(tmp_path, part)
    errors = np.random.default_rng(0).lognormal(1, 2, (8, 17))
    ds["features"].values[..., 0] += (errors - 3).astype(np.float32)
    ds["features"].values[..., 1] -= 4
    from etl.stages.files.features import write_partition

    store = stores.store_of(tmp_path)
    store.add_receipt(write_partition(ds, part, store))
    (line,) = summary_table(open_features(tmp_path), "subject").to_dict("records")
    assert line["error_px"] == pytest.approx(errors.mean(), rel=1e-4)
    assert line["error_px_median"] == pytest.approx(np.median(errors), rel=0.05)
    by_joint = summary_table(open_features(tmp_path), "joint")["error_px_median"].to_numpy()
    ordered = np.sort(errors, axis=0)
    assert (by_joint >= 0.99 * ordered[3]).all()
    assert (by_joint <= 1.01 * ordered[4]).all()


def test_nothing_selected_is_an_empty_table(root: Path) -> None:
    for group_by in ("sequence", "joint"):
        assert summary_table(open_features(root).sel(status="model_error"), group_by).empty


def test_without_ground_truth_there_is_no_error(tmp_path: Path) -> None:
    stores.estimate(tmp_path, stores.annotate(tmp_path, stores.keys(subjects=("S1",))))
    for path in (tmp_path / "h36m" / "annotations").rglob("*.nc"):
        path.unlink()
    (line,) = summary_table(open_features(tmp_path), "subject").to_dict("records")
    assert np.isnan(line["error_px"])
    assert np.isnan(line["error_px_median"])
    assert line["ok"] == 80


def test_one_line_a_frame_and_joint(root: Path) -> None:
    selected = open_features(root).sel(subject="S1", action="Walking", camera="54138969", frame=slice(2, 3))
    block = next(iter(selected.blocks(("features", "joint_valid", "error_px"))))
    table = to_table(block, selected.layout)
    assert table["joint"].tolist() == list(H36M_17.joints) * 2
    assert table["frame"].tolist() == [2] * 17 + [3] * 17
    assert table["status"].tolist() == ["ok"] * 17 + ["no_person"] * 17
    assert set(zip(table["subject"], table["action"], table["camera"], table["split"], strict=True)) == {
        ("S1", "Walking", "54138969", "train")
    }
    ok = table[table["frame"] == 2]
    np.testing.assert_allclose(ok["confidence"], 0.05 * np.arange(1, 18))
    np.testing.assert_allclose(ok["error_px"], 5.0, rtol=1e-4)
    assert table.loc[table["frame"] == 3, "x"].isna().all()
    assert isinstance(table, pd.DataFrame)
