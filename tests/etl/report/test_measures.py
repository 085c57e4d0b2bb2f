"""Measures against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.report import measures
from etl.results.rows import Rows


def rows(count: int = 6, *, truth: bool = True) -> Rows:
    """People 200 px high and 100 px wide; row i is detected 2 · i px to the right of the truth and 1.1 times as far."""
    base = np.linspace([300, 100], [400, 300], 17)
    true = np.repeat(base[None], count, 0)
    found = true + np.array([2.0, 0])[None, None] * np.arange(count)[:, None, None]
    depth = np.repeat(np.linspace(4, 6, 17)[None], count, 0)
    nothing = np.nan
    return Rows(
        sequence=np.arange(count, dtype=np.int32) // 2,
        frame=np.arange(count, dtype=np.int32),
        person=np.zeros(count, np.int32),
        status=np.zeros(count, np.int8),
        xy=found.astype(np.float32),
        confidence=np.linspace(1, 0.5, count, dtype=np.float32)[:, None] * np.ones(17, np.float32),
        depth=(1.1 * depth).astype(np.float32),
        depth_min=(1.1 * depth - 0.1).astype(np.float32),
        depth_max=(1.1 * depth + 0.1).astype(np.float32),
        box=np.zeros((count, 4), np.float32),
        true_xy=(true if truth else np.full_like(true, nothing)).astype(np.float32),
        true_depth=(depth if truth else np.full_like(depth, nothing)).astype(np.float32),
    )


def lost(found: Rows, row: int) -> Rows:
    """With nobody detected in a row."""
    found.status[row] = 1
    for values in (found.xy, found.confidence, found.depth, found.depth_min, found.depth_max):
        values[row] = np.nan
    return found


def test_errors_are_distances_and_shares_of_the_size() -> None:
    some = lost(rows(), 5)
    assert measures.person_size(some.true_xy).tolist() == [200.0] * 6
    np.testing.assert_allclose(measures.errors_px(some)[:5, 3], [0, 2, 4, 6, 8], atol=1e-4)
    assert np.isnan(measures.errors_px(some)[5]).all()
    np.testing.assert_allclose(measures.relative_errors(some)[:5, 3], [0, 0.01, 0.02, 0.03, 0.04], atol=1e-6)


def test_figures_of_a_group() -> None:
    found = measures.measures_of(lost(rows(), 5))
    assert found["confidence mean"] == pytest.approx(0.8)
    assert found["2D error median px"] == pytest.approx(4, abs=1e-4)
    assert found["2D error 90 % px"] == pytest.approx(8, abs=1e-4)
    assert found["PCK@0.05"] == 1
    assert found["depth error median"] == pytest.approx(0.1, rel=1e-5)
    assert found["depth order right"] == 1
    assert found["depth spread median cm"] == pytest.approx(20, rel=1e-5)
    plain = measures.measures_of(rows(truth=False))
    assert not any(name.startswith(("2D", "PCK")) for name in plain)
    assert plain["depth median m"] == pytest.approx(5.5)


def test_tables_have_a_line_a_group() -> None:
    some = lost(rows(), 5)
    table = measures.table_by(np.array(["b", "b", "b", "a", "a", "a"]), some, "camera")
    assert table["camera"].tolist() == ["a", "b"]
    assert table["frames"].tolist() == [3, 3]
    np.testing.assert_allclose(table["ok"], [2 / 3, 1])
    np.testing.assert_allclose(table["2D error median px"], [7, 2], atol=1.1)


def test_a_group_without_anybody_has_no_figures() -> None:
    alone = lost(rows(1), 0)
    table = measures.table_by(np.array(["a"]), alone, "camera")
    assert table["ok"].tolist() == [0]
    assert np.isnan(table["confidence mean"][0])
    assert np.isnan(table["depth order right"][0])


def test_pck_counts_what_lies_below() -> None:
    assert measures.pck(np.array([0.01, 0.04, 0.05, 0.2, np.nan]), 0.05) == 0.5
    assert np.isnan(measures.pck(np.array([np.nan]), 0.05))


def test_calibration() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 20_000)
    # Errors below the threshold exactly as often as the confidence says.
    error = np.where(rng.uniform(0, 1, confidence.size) < confidence, 0.01, 0.2)
    found = measures.calibrate(confidence, error)
    assert found is not None
    assert found.count.sum() == confidence.size
    assert np.abs(found.correct - found.confidence).max() < 0.05
    assert found.rank_correlation < -0.4
    assert measures.calibrate(np.ones(100), error[:100]) is None
    assert measures.calibrate(confidence[:5], error[:5]) is None


def test_the_line_through_depths() -> None:
    true = np.linspace(3, 6, 50)
    found = measures.fit_line(0.8 * true + 0.5, true)
    assert found is not None
    np.testing.assert_allclose([found.scale, found.offset, found.correlation], [0.8, 0.5, 1])
    assert found.count == 50
    assert measures.fit_line(true, np.full(50, 4.0)) is None
    assert measures.fit_line(np.full(50, np.nan), true) is None


def test_order_of_pairs() -> None:
    true = np.zeros((2, 17))
    true[:, 1], true[:, 2] = 0.2, 0.05  # 2 is too near to 0 to count, 1 isn't
    detected = np.zeros((2, 17))
    detected[:, 1] = [0.1, -0.1]  # right once, wrong once
    detected[1, 5] = np.nan
    accuracy, count = measures.ordinal_accuracy(detected, true)
    assert (accuracy[0, 1], count[0, 1]) == (0.5, 2)
    assert accuracy[1, 0] == 0.5
    assert count[0, 2] == 0
    assert np.isnan(accuracy[0, 2])
    assert count[1, 5] == 1
    assert measures.overall(accuracy, count) == pytest.approx(16 / 31)  # 1 and the 16 others, twice, less the NaN


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_order_is_a_matter_of_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, detected = rng.normal(size=(2, 7, 17))
    accuracy, count = measures.ordinal_accuracy(detected, true)
    np.testing.assert_array_equal(accuracy, accuracy.T)
    np.testing.assert_array_equal(count, count.T)
    perfect, _ = measures.ordinal_accuracy(3 * true + 1, true)
    assert set(perfect[np.isfinite(perfect)].tolist()) <= {1.0}


def test_frames_are_ranked_and_taken_from_different_sequences() -> None:
    some = lost(rows(8), 7)
    merit = measures.merit(some)
    assert np.isnan(merit[7])
    np.testing.assert_allclose(merit[:7], 0.01 * np.arange(7), atol=1e-6)
    chosen = measures.best_median_worst(merit, some.sequence, each=3)
    assert chosen == {"best": [0, 2, 4], "median": [3, 4, 1], "worst": [6, 5, 3]}
    few = measures.best_median_worst(merit[:2], some.sequence[:2], each=3)
    assert few == {"best": [0, 1], "median": [0, 1], "worst": [1, 0]}
    assert measures.best_median_worst(np.full(3, np.nan), np.zeros(3, int)) == {}
    doubt = measures.merit(rows(truth=False))
    assert doubt.argmin() == 0
