from __future__ import annotations

import os

import pytest

from cluster.processors import processors
from etl.stages.throughput import DecodeThreads, WorkTimes


def run(threads: DecodeThreads, rates: dict[int, float], waiting: dict[int, float], partitions: int = 8) -> list[int]:
    """Numbers of threads that partitions of 100 frames were decoded by, given frames a second and share of waiting."""
    used = []
    for _ in range(partitions):
        used.append(threads.count)
        seconds = 100 / rates[threads.count]
        share = waiting[threads.count]
        threads.learn(100, WorkTimes(seconds * share, seconds * (1 - share)), threads.count)
    return used


def test_networks_that_never_wait_keep_one_thread() -> None:
    assert run(DecodeThreads(8), {1: 30}, {1: 0.02}) == [1] * 8


def test_threads_are_added_while_that_pays() -> None:
    rates = {1: 50.0, 2: 98.0, 4: 180.0}
    assert run(DecodeThreads(16), rates, {1: 0.7, 2: 0.5, 4: 0.01}) == [1, 2, *[4] * 6]


def test_threads_that_do_not_pay_are_taken_back() -> None:
    assert run(DecodeThreads(16), {1: 50.0, 2: 49.0}, {1: 0.5, 2: 0.4}) == [1, 2, *[1] * 6]


def test_the_last_number_that_paid_is_kept() -> None:
    rates = {1: 50.0, 2: 98.0, 3: 98.0}
    assert run(DecodeThreads(3), rates, dict.fromkeys(rates, 0.5)) == [1, 2, 3, *[2] * 5]


def test_threads_stay_within_the_workers_processors() -> None:
    assert run(DecodeThreads(3), {1: 10.0, 2: 20.0, 3: 30.0}, dict.fromkeys((1, 2, 3), 0.9)) == [1, 2, *[3] * 6]
    assert run(DecodeThreads(1), {1: 10.0}, {1: 0.9}) == [1] * 8


def test_processors_are_what_the_cluster_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert processors() == 1
    for text in ("", "many", "0", "1000"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert processors() == allowed
