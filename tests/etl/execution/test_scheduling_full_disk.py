"""A run on a full disk: it waits, says so, and computes nothing twice."""

from __future__ import annotations

import collections
import errno
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client

import cluster
from cluster.config import ClusterConfig
from etl.config import EstimateSettings, ModelSettings
from etl.errors import SpaceError
from etl.execution.resume import look_for_finished, settle
from etl.execution.scheduling import Outcome, run_partitions
from etl.stages.estimate import Estimator
from etl.stages.files.features import write_partition
from etl.stages.progress import Silent
from etl.store.partition import Partition, Receipt, cut
from etl.store.workspace import FeatureStore, disk_error
from schemas import annotation, features
from tests.cluster.small_disk import fill, fill_inodes, mounted

FRAMES, SIZE = 18, 3
Exhaust = Callable[[Path], Path]


class Notes(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.waiting: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, units: int, failed: int = 0, **facts: str) -> None:
        self.waiting += facts.values()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster.start(ClusterConfig(workers=2)) as workers, Client(workers) as client:
        yield client


@pytest.fixture
def parts() -> list[Partition]:
    return cut(annotation.mock(frames=FRAMES), "a.nc", "key", SIZE, uses_boxes=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", kib=1024, inodes=60) as folder:
        yield folder


def store_in(folder: Path) -> FeatureStore:
    store = FeatureStore(folder / "features")
    store.create({})
    return store


def estimator(store: FeatureStore, patience: float = 600) -> Estimator:
    """What is computed is counted beside the disk, since that is full."""
    settings = EstimateSettings(association="person")
    counts = store.folder.parents[1]
    return Estimator(ModelSettings(), settings, counts, store.folder, store.folder, "{}", patience=patience)


def compute_and_write(partition: Partition, estimator: Estimator) -> Receipt:
    with (estimator.media_root / f"computed-{os.getpid()}").open("a") as file:
        file.write(f"{partition.id}\n")
    ds = features.mock(partition.key, partition.rows, first=partition.first)
    ds.attrs["partition"] = partition.id
    return write_partition(ds, partition, FeatureStore(estimator.features), patience=estimator.patience)


def computed(folder: Path) -> collections.Counter[str]:
    return collections.Counter(line for path in folder.glob("computed-*") for line in path.read_text().split())


def give_back(ballast: Path) -> None:
    shutil.rmtree(ballast) if ballast.is_dir() else ballast.unlink()


@pytest.mark.parametrize(("exhaust", "reason"), [(fill, "No space left"), (fill_inodes, "no inodes left")])
def test_a_run_waits_for_space_and_computes_nothing_twice(
    client: Client, parts: list[Partition], tmp_path: Path, disk: Path, exhaust: Exhaust, reason: str
) -> None:
    store, report = store_in(disk), Notes()
    ballast = exhaust(disk)
    ticks = 0

    def tick(outcome: Outcome, running: int) -> bool:
        nonlocal ticks
        if len(outcome.waiting.reasons) == 2:  # both workers
            assert reason in outcome.waiting.text()
            ticks += 1
            if ticks == 2:
                give_back(ballast)
        return False

    outcome = run_partitions(client, parts, estimator(store), store, report, tick=tick, task=compute_and_write)
    assert outcome.counts == {"ok": FRAMES}
    assert not outcome.failed
    assert computed(tmp_path) == dict.fromkeys((p.id for p in parts), 1)
    assert not look_for_finished(parts, store, verify=True).todo
    assert not list(store.folder.rglob(".*.tmp"))
    assert report.notes[0].startswith("waiting for space: ")
    assert report.notes[-1] == "there is space again"
    assert report.waiting[-1] == ""


def test_a_run_that_waits_can_be_stopped_and_started_again(
    client: Client, parts: list[Partition], tmp_path: Path, disk: Path
) -> None:
    store = store_in(disk)
    ballast = fill(disk)
    outcome = run_partitions(
        client,
        parts,
        estimator(store, patience=1e6),
        store,
        Silent(),
        tick=lambda outcome, running: bool(outcome.waiting.reasons),
        task=compute_and_write,
    )
    assert outcome.stopped
    assert not outcome.failed
    assert not store.failures()
    left = look_for_finished(parts, store).todo
    assert len(left) == len(parts)
    give_back(ballast)
    outcome = run_partitions(client, left, estimator(store), store, Silent(), task=compute_and_write)
    assert outcome.counts == {"ok": FRAMES}


def test_without_patience_a_full_disk_ends_the_run(client: Client, parts: list[Partition], disk: Path) -> None:
    store = store_in(disk)
    fill(disk)
    with pytest.raises(SpaceError, match="No space left"):
        run_partitions(client, parts, estimator(store, patience=0), store, Silent(), task=compute_and_write)


@pytest.mark.slow
def test_who_waits_is_not_taken_for_dead_and_who_dies_loses_its_partition_only(
    parts: list[Partition], tmp_path: Path, disk: Path
) -> None:
    store = store_in(disk)
    ballast = fill(disk)
    begun = 0.0
    killed: list[str] = []

    with cluster.start(ClusterConfig(workers=2, worker_ttl=3)) as workers, Client(workers) as client:
        client.wait_for_workers(2)
        pids = client.run(os.getpid)

        def tick(outcome: Outcome, running: int) -> bool:
            nonlocal begun
            if not begun and len(outcome.waiting.reasons) == 2:
                begun = time.monotonic()
            if begun and not killed and time.monotonic() - begun > 8:  # longer than a silent worker may live
                assert client.run(os.getpid) == pids
                assert not look_for_finished(parts, store).finished
                victim = next(iter(pids))
                killed.append(victim)
                os.kill(pids[victim], signal.SIGKILL)  # as SLURM does at the end of a walltime
                give_back(ballast)
            return False

        outcome = run_partitions(client, parts, estimator(store), store, Silent(), tick=tick, task=compute_and_write)
    assert killed
    assert outcome.counts == {"ok": FRAMES}
    assert sorted(computed(tmp_path).values()) == [1] * (len(parts) - 1) + [2]


class NoRoomForReceipts(FeatureStore):
    """Refuses the first receipts for want of quota."""

    refusals = 2

    def add_receipt(self, receipt: Receipt) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise disk_error(self.receipts_path, OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)))
        super().add_receipt(receipt)


def test_receipts_wait_in_the_driver(client: Client, parts: list[Partition], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    store, report = NoRoomForReceipts(store_in(tmp_path / "disk").folder), Notes()
    outcome = run_partitions(client, parts, estimator(store), store, report, task=compute_and_write)
    assert outcome.counts == {"ok": FRAMES}
    assert set(store.receipts()) == {p.id for p in parts}
    assert computed(tmp_path) == dict.fromkeys((p.id for p in parts), 1)
    assert "quota" in report.notes[0].lower()


def test_a_run_stopped_before_its_receipts_are_written_loses_no_file(
    client: Client, parts: list[Partition], tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    store = NoRoomForReceipts(store_in(tmp_path / "disk").folder)
    store.refusals = 10_000
    done: list[int] = []

    def tick(outcome: Outcome, running: int) -> bool:
        done.append(outcome.counts["ok"])
        return outcome.counts["ok"] == FRAMES

    outcome = run_partitions(client, parts, estimator(store), store, Silent(), tick=tick, task=compute_and_write)
    assert outcome.stopped
    assert not store.receipts()
    store.refusals = 0
    found = look_for_finished(parts, store)
    assert (found.adopted, found.todo) == (len(parts), [])
    settle(found, parts, store)
    assert computed(tmp_path) == dict.fromkeys((p.id for p in parts), 1)


def test_a_failed_partition_is_noted_once_there_is_space(
    client: Client, parts: list[Partition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    store = store_in(tmp_path / "disk")
    real, refused = FeatureStore.add_failure, list[str]()

    def refuse_once(self: FeatureStore, partition: Partition, reason: str) -> None:
        if not refused:
            refused.append(reason)
            raise disk_error(self.failures_path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        real(self, partition, reason)

    monkeypatch.setattr(FeatureStore, "add_failure", refuse_once)
    cursed = [replace(parts[0], rows=-1)]  # no array has so many
    outcome = run_partitions(client, cursed, estimator(store), store, Silent(), task=compute_and_write)
    assert set(outcome.failed) == {parts[0].id}
    assert [entry["id"] for entry in store.failures()] == [parts[0].id]
