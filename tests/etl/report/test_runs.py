"""Times of runs from receipts with known times."""

from __future__ import annotations

from etl.report.runs import Run, runs_of
from etl.store.partition import Receipt


def receipt(written: float, seconds: float, frames: int = 10) -> Receipt:
    return Receipt("id", "path", frames, frames, {"ok": frames}, 1, "", seconds, "here", written=written)


def test_partitions_that_overlap_are_one_run() -> None:
    runs = runs_of([receipt(1130, 30), receipt(1100, 100), receipt(1120, 5)])
    assert runs == [Run(1000, 1130, 3, 30)]
    assert runs[0].seconds == 130
    assert runs[0].rate == 30 / 130


def test_a_pause_makes_another_run() -> None:
    runs = runs_of([receipt(5000, 50), receipt(1100, 100), receipt(5010, 20), receipt(1210, 10)])
    assert [(run.begin, run.end, run.partitions) for run in runs] == [(1000, 1210, 2), (4950, 5010, 2)]
    assert len(runs_of([receipt(1000, 10), receipt(1100, 10)], pause=60)) == 2


def test_what_is_of_unknown_time_is_left_out() -> None:
    assert runs_of([receipt(0, 10)]) == []
