"""Shift and rate of known motions, with intervals that hold the truth and grow where little moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.alignment.timing import Estimate, fit, significance
from etl.alignment.tracks import Track
from etl.demo.human36m import RATE
from tests.etl.alignment.test_fit import CAMERA, gait, seen_from, track


def late(frames: np.ndarray, shift: float, rate: float = 1.0, noise: float = 4.0, seed: int = 0) -> Track:
    """Frame f shows what is annotated for rate · f + shift."""
    annotated = CAMERA.project(seen_from(gait((frames - shift) / rate / RATE), 40))
    return replace(track(frames, noise=noise, seed=seed), annotated=annotated)


def rows(found: Track) -> np.ndarray:
    return np.arange(len(found.frame))


@given(shift=st.floats(-1.5, 1.5), step=st.sampled_from([1, 2]), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_a_fraction_of_a_frame_is_found(shift: float, step: int, seed: int) -> None:
    some = late(np.arange(0, 120 * step, step), shift, seed=seed)
    found = fit(some, rows(some))
    assert found is not None
    assert found.rate is None
    assert abs(found.shift.value - shift) < 2 * found.shift.half + 0.05
    assert found.shift.half < 0.75


def test_a_detector_without_lag_has_none() -> None:
    """Over many draws of noise the mean shift is zero, and intervals hold it as often as they say."""
    found = [fit(some, rows(some)) for some in (late(np.arange(80), 0.0, noise=8.0, seed=seed) for seed in range(60))]
    shifts = [one.shift for one in found if one]
    assert len(shifts) == 60
    values = np.array([shift.value for shift in shifts])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(60)
    assert np.mean([shift.least == 0 for shift in shifts]) >= 0.9


@pytest.mark.parametrize("rate", [2.0, 0.5, 1.0])
def test_a_rate_is_found(rate: float) -> None:
    some = late(np.arange(200), 0.0, rate)
    found = fit(some, rows(some), rate=rate, free_rate=True)
    assert found is not None
    assert found.rate is not None
    assert found.rate.value == pytest.approx(rate, rel=0.03)
    assert abs(found.rate.value - rate) < 2 * found.rate.half
    assert found.shift.value == pytest.approx(0, abs=1)


def test_side_swaps_now_and_then_do_not_move_it() -> None:
    some = late(np.arange(120), 0.6)
    detected = some.detected.copy()
    detected[30:50] += 150.0
    found = fit(replace(some, detected=detected), rows(some))
    assert found is not None
    assert found.shift.value == pytest.approx(0.6, abs=0.2)


def test_one_moving_limb_is_one_voice() -> None:
    some = late(np.arange(120), 0.0)
    annotated = some.annotated.copy()
    annotated[:, [1, 2, 3, 4, 5, 6, 14, 15, 16]] = annotated[:1, [1, 2, 3, 4, 5, 6, 14, 15, 16]]
    offset = some.detected - some.annotated
    alone = replace(some, annotated=annotated, detected=annotated + offset)
    whole, single = fit(some, rows(some)), fit(alone, rows(some))
    assert whole is not None
    assert single is not None
    assert whole.shift.freedom > 1.9
    assert single.shift.freedom < 1.1
    assert single.shift.half > 3 * whole.shift.half


def test_what_cannot_be_fitted() -> None:
    still = track(np.arange(60), noise=0.0, still=True)
    assert fit(still, rows(still)) is None
    few = late(np.arange(6), 0.0)
    assert fit(few, rows(few)) is None
    far = late(np.arange(120), 14.0)
    found = fit(far, rows(far))
    assert found is None or found.shift.half > 1 or abs(found.shift.value - 14) < 1


def test_intervals() -> None:
    some = Estimate(1.0, 0.1, 11)
    assert some.half == pytest.approx(0.2201, abs=1e-4)
    assert some.least == pytest.approx(0.7799, abs=1e-4)
    assert Estimate(-0.1, 0.1, 11).least == 0
    assert str(some) == "+1.00 ± 0.22"


def test_neighbours_that_err_alike_count_less() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(0.2, 1, 400)
    slow = np.repeat(rng.normal(0.2, 1, 20), 20)
    assert significance(white) > 3
    assert significance(slow) < significance(np.sort(white)[rng.permutation(400)])
    assert significance(np.ones(3)) == 0
