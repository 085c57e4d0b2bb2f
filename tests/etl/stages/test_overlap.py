"""Partitions that overlap in a worker: what does, what doesn't, and how many are under way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

from etl.execution.scheduling import run_partitions
from etl.models.base import Detections, Frame
from etl.stages import estimate
from etl.stages.estimate import Estimator, estimate_partition
from etl.stages.files import features as feature_file
from etl.stages.overlap import Overlap, free_worker_slot
from etl.stages.progress import Silent
from etl.store.partition import Partition
from etl.store.workspace import FeatureStore
from tests.etl.fakes import FakeModels
from tests.etl.stages.test_estimate import annotated, make

FRAMES, SIZE, BATCH = 24, 8, 2
DECODED = threading.Event()
DECODED.set()
LOG: list[tuple[str, str, int]] = []  # what, which partition's or frame's, +1 where it begins and -1 where it ends


class LoggedModels(FakeModels):
    """Says when its networks work, on the frames of which partition."""

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        which = str(frames[0].number // SIZE)
        LOG.append(("networks", which, 1))
        time.sleep(0.03)
        found = super().detect(frames)
        LOG.append(("networks", which, -1))
        return found


def build(**options: Any) -> LoggedModels:
    return LoggedModels(**options)


def logged(what: str, work: Callable[..., Any], which: Callable[..., str], seconds: float) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        LOG.append((what, which(*args), 1))
        try:
            time.sleep(seconds)
            return work(*args, **kwargs)
        finally:
            LOG.append((what, which(*args), -1))

    return run


def most_at_once(*kinds: str) -> int:
    """How many of these were under way at once."""
    count = most = 0
    for what, _, change in LOG:
        if what in kinds:
            count += change
            most = max(most, count)
    return most


def overlaps(first: str, second: str) -> set[int]:
    """Partitions whose `second` was under way while `first` was for the one before."""
    under_way: Counter[tuple[str, int]] = Counter()
    found = set()
    for what, which, change in LOG:
        under_way[what, int(which)] += change
        found |= {n for (kind, n), count in under_way.items() if kind == second and count and under_way[first, n - 1]}
    return found


@pytest.fixture
def several(tmp_path: Path) -> tuple[Estimator, list[Partition]]:
    """Three partitions of eight pictures."""
    import cv2

    (tmp_path / "raw" / "pics").mkdir(parents=True)
    for i in range(FRAMES):
        cv2.imwrite(str(tmp_path / "raw" / "pics" / f"{i}.png"), np.full((240, 320, 3), 5 * i, np.uint8))
    ds = annotated(frames=FRAMES)
    LOG.clear()
    return make(tmp_path, ds, factory=f"{__name__}:build", partition_frames=SIZE, batch=BATCH)


def run(several: tuple[Estimator, list[Partition]], monkeypatch: pytest.MonkeyPatch, writing: float) -> FeatureStore:
    """On a worker with one thread, that can decode ahead; writing takes so many seconds."""
    estimator, parts = several
    by_path = {str(part.path): str(number) for number, part in enumerate(parts)}
    monkeypatch.setattr(estimate, "processors", lambda: 2)
    monkeypatch.setattr(
        estimate,
        "load_rows",
        logged("opening", estimate.load_rows, lambda _, part: by_path[str(part.path)], 0.05),
    )
    monkeypatch.setattr(
        feature_file,
        "_write_and_hash",
        logged(
            "writing",
            feature_file._write_and_hash,
            lambda target, _: by_path[str(target.relative_to(estimator.features))],
            writing,
        ),
    )
    store = FeatureStore(estimator.features)
    settings = {"processes": False, "n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        outcome = run_partitions(client, parts, estimator, store, Silent())
    assert outcome.counts == {"ok": FRAMES}
    assert Counter(attempt["id"] for attempt in store.attempts()) == {part.id: 1 for part in parts}
    assert estimate.OVERLAP.in_progress == 0
    return store


def test_the_next_partition_is_opened_while_networks_work_and_the_last_is_written_meanwhile(
    several: tuple[Estimator, list[Partition]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = run(several, monkeypatch, writing=0.02)
    assert most_at_once("networks") == 1
    assert most_at_once("writing") == 1
    assert overlaps("networks", "opening") == {1, 2}
    assert overlaps("writing", "networks") == {1, 2}
    # What comes out is what comes out of one after the other.
    estimator, parts = several
    found = {part.path: xr.load_dataset(store.folder / part.path, engine="netcdf4") for part in parts}
    for part in parts:
        (store.folder / part.path).unlink()
        estimate_partition(part, estimator)
        xr.testing.assert_identical(found[part.path], xr.load_dataset(store.folder / part.path, engine="netcdf4"))


def test_two_partitions_are_under_way_at_most_however_long_writing_takes(
    several: tuple[Estimator, list[Partition]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(several, monkeypatch, writing=1.0)
    ends = {which: place for place, (what, which, change) in enumerate(LOG) if (what, change) == ("writing", -1)}
    opened = {which: place for place, (what, which, change) in enumerate(LOG) if (what, change) == ("opening", 1)}
    assert opened["1"] < ends["0"] < opened["2"]


def test_seconds_of_partitions_that_overlap_arent_counted_twice(
    several: tuple[Estimator, list[Partition]], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.perf_counter()
    store = run(several, monkeypatch, writing=0.01)
    wall = time.perf_counter() - begun
    seconds = [receipt.seconds for receipt in store.receipts().values()]
    # Writing overlaps with the next networks. Counted from their starts, partitions would take far longer.
    assert sum(seconds) < 1.3 * wall
    assert min(seconds) > SIZE / BATCH * 0.03


def test_a_turn_lets_one_other_begin_once_and_not_before_the_last_is_written() -> None:
    begun: list[str] = []
    overlap = Overlap(start_next=lambda: begun.append("next"))
    with overlap.partition() as first:
        with first.networks():
            list(first.start_next_when(DECODED, [1, 2]))
        assert begun == ["next"]
        with overlap.partition() as second:
            list(second.start_next_when(DECODED, [1]))
            assert begun == ["next"]  # the first isn't written
            assert overlap.in_progress == 2
            assert second.seconds == 0  # it hasn't had the networks
            with second.networks():
                time.sleep(0.01)
            assert 0.01 <= second.seconds < first.seconds
    with overlap.partition() as third:
        list(third.start_next_when(DECODED, [1]))
    assert begun == ["next", "next"]
    assert overlap.in_progress == 0


def test_networks_have_one_partition_at_a_time_and_are_free_after_an_error() -> None:
    overlap, order = Overlap(start_next=lambda: None), list[str]()
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with contextlib.suppress(KeyError), overlap.partition() as turn, turn.networks():
            inside.set()
            assert go_on.wait(10)
            order.append("first")
            raise KeyError

    def second() -> None:
        with overlap.partition() as turn, turn.networks():
            order.append("second")

    threads = [threading.Thread(target=work) for work in (first, second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    time.sleep(0.02)
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]
    assert overlap.in_progress == 0


def test_outside_a_worker_nothing_begins() -> None:
    free_worker_slot()
