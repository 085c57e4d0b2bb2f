from __future__ import annotations

import pytest

from etl.execution.progress import FEWEST, WINDOW, Rate


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def rate_of(results: list[tuple[float, float]], now: float | None = None) -> float:
    clock = Clock()
    rate = Rate(clock)
    for when, units in results:
        clock.now = when
        rate.record(units)
    clock.now = results[-1][0] if now is None else now
    return rate.per_second()


def test_nothing_is_no_rate() -> None:
    assert Rate().per_second() == 0
    assert rate_of([(0, 0)], now=100) == 0


def test_only_what_is_recent_counts() -> None:
    slow = [(60.0 * i, 60.0 * i) for i in range(100)]
    fast = [(6000.0 + 60 * i, 6000.0 + 600 * i) for i in range(int(WINDOW / 60) + 2)]
    assert rate_of(slow) == pytest.approx(1)
    assert rate_of(slow + fast) == pytest.approx(10)


def test_it_falls_while_nothing_comes() -> None:
    results = [(10.0 * i, 10.0 * i) for i in range(11)]
    assert rate_of(results, now=100) == pytest.approx(1)
    assert rate_of(results, now=1000) == pytest.approx(0.1)


def test_results_that_are_far_between_count_all_the_same() -> None:
    results = [(2 * WINDOW * i, 512.0 * i) for i in range(3 * FEWEST)]
    assert rate_of(results) == pytest.approx(512 / (2 * WINDOW))


def test_many_results_a_second_are_kept_as_few() -> None:
    clock = Clock()
    rate = Rate(clock)
    for i in range(10_000):
        clock.now += 0.01
        rate.record(i)
    assert rate.per_second() == pytest.approx(100, rel=0.01)
    assert len(rate._recorded) < 250
