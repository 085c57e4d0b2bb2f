"""The demo's measurements, and the demo itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from etl.cli.app import app
from etl.demo.run import MINIATURES, DatasetResult, DemoResult, demo_config, measure, run_demo
from etl.errors import ConfigError
from etl.execution.summary import Summary
from schemas import xycd
from schemas.skeletons import LIMB_JOINTS


def test_every_dataset_has_a_miniature_and_a_configuration(tmp_path: Path) -> None:
    config = demo_config(tmp_path, tuple(MINIATURES))
    assert {name: settings.root.name for name, settings in config.datasets.selected().items()} == {
        name: name for name in ("h36m", "3dpw", "3dhp", "fit3d")
    }
    with pytest.raises(ConfigError, match="h63m"):
        run_demo(tmp_path / "new", ["h63m"])
    assert not (tmp_path / "new").exists()


def test_errors_are_of_usable_people_who_were_found(tmp_path: Path) -> None:
    arrays = xycd.mock(rows=4)
    arrays["valid_annotation"][:] = [True, True, False, True]
    arrays["valid_detection"][:] = [True, True, True, False]
    arrays["part"][..., :2] = arrays["predicted_keypoints"] + np.float32(999)
    limbs = list(LIMB_JOINTS)
    for row, distance in enumerate((3.0, 5.0, 7.0)):
        off = np.array([0.6, -0.8], np.float32) * np.float32(distance)
        arrays["part"][row, limbs, :2] = arrays["predicted_keypoints"][row, limbs] + off
    arrays["S"][:, 0, 2] = 4
    arrays["predicted_da_depth"][:, 0] = [4.4, 3.6, 9, 9]
    np.savez(tmp_path / "x.npz", **arrays)
    summary = Summary("3dpw", rows=Counter(ok=3, no_person=1), outputs=[tmp_path / "x.npz"])
    result = measure(summary, tmp_path / "overlay.png")
    assert (result.rows, result.usable, result.found) == (4, 3, 2)
    assert result.error_px == pytest.approx([3, 5], abs=1e-3)
    assert result.depth_error == pytest.approx([0.1, 0.1], abs=1e-5)
    assert result.failures == {"no_person": 1}
    text = result.text()
    assert "4, of which 3 usable; found 2 (66.7%)" in text
    assert "median 4.0 px" in text
    assert "median 10.0%" in text


def result_of(
    found: int, error_px: float, depth_error: float, usable: int = 200, dataset: str = "h36m"
) -> DatasetResult:
    errors = np.full(found, error_px), np.full(found, depth_error)
    return DatasetResult(dataset, usable, usable, found, {}, *errors, [], Path("overlay.png"))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (result_of(196, 12.0, 0.05), []),
        (result_of(195, 7, 0.02), ["97.5% of the people are found, not 98%"]),
        (result_of(200, 12.1, 0.02), ["The median 2D error is 12.1 px, above 12 px"]),
        (result_of(200, 7, 0.051), ["The median root depth error is 5.1%, above 5%"]),
        (result_of(0, 0, 0), ["0.0% of the people"]),
        (result_of(100, 50, 0.5), ["50.0% of", "2D error", "depth error"]),
        (result_of(12, 50, 0.5, usable=24), []),  # too few to tell
        (result_of(100, 50, 0.5, dataset="3dpw"), []),
    ],
)
def test_the_demo_fails_where_it_misses_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: DatasetResult, words: list[str]
) -> None:
    missed = result.missed()
    assert len(missed) == len(words)
    assert all(word in text for word, text in zip(words, missed, strict=True))
    demo = DemoResult([result], {"render": 1.0, "pipeline": 1.0}, tmp_path)
    monkeypatch.setattr("etl.demo.run.run_demo", lambda *_, **__: demo)
    done = CliRunner().invoke(app, ["demo", str(tmp_path)])
    assert done.exit_code == (1 if words else 0)
    assert f"found {result.found}" in done.stdout
    assert all(word in done.stderr for word in words)


def test_a_dataset_that_is_not_finished_fails_the_demo(tmp_path: Path) -> None:
    demo = DemoResult([], {"render": 1.0, "pipeline": 1.0}, tmp_path, ["3dpw: Sequences fit."])
    assert demo.missed() == ["3dpw: Sequences fit."]
    assert "frames/s" in demo.text()


SMALLER = {
    "h36m": {"subjects": ("S1", "S9"), "actions": ("Walking",), "cameras": ("54138969",), "scale": 0.4},
    "3dpw": {"scale": 0.3},
    "3dhp": {"subjects": ("S1",), "scale": 0.3},
    "fit3d": {"cameras": ("50591643",), "scale": 0.5},
}


@pytest.mark.slow
@pytest.mark.usefixtures("embedded_weights")
def test_all_four_datasets_go_from_raw_files_to_training_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, options in SMALLER.items():
        plan = replace(MINIATURES[name].plan, **options)
        monkeypatch.setitem(MINIATURES, name, replace(MINIATURES[name], plan=plan))
    result = run_demo(tmp_path, tuple(MINIATURES), frames=2, workers=1)
    written = {path.name for one in result.datasets for path in one.outputs}
    assert written == {
        "h36m_xycd_train.npz", "h36m_xycd_val.npz", "3dpw_xycd_train.npz", "3dpw_xycd_validation.npz",
        "3dpw_xycd_test.npz", "3dhp_xycd_train.npz", "3dhp_xycd_test.npz", "fit3d_xycd_train.npz",
        "fit3d_xycd_test.npz",
    }  # fmt: skip
    for one in result.datasets:
        assert one.found >= 0.7 * one.usable  # of two people behind each other the embedded detector finds one
        assert np.median(one.error_px) < 8
        assert np.median(one.depth_error) < 0.1
        assert cv2.imread(str(one.picture)) is not None
        assert one.page == tmp_path / f"report-{one.dataset}.html"
        assert f"<title>{one.dataset}" in one.page.read_text()
        assert f"report              {one.page}" in one.text()
        assert one.dataset in result.text()
