from __future__ import annotations

import collections
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client

import cluster
from cluster.config import ClusterConfig
from etl.config import EstimateSettings, ModelSettings
from etl.errors import DeviceError, WorkspaceError
from etl.execution.resume import inspect_store, reconcile_store
from etl.execution.scheduling import Outcome, run_partitions
from etl.stages.estimate import Estimator
from etl.stages.files.features import verify_partition, write_partition
from etl.stages.progress import Silent
from etl.store.partition import Partition, Receipt, cut_sequence
from etl.store.workspace import FeatureStore
from schemas import annotation, features

FRAMES, SIZE = 24, 3


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster.start(ClusterConfig(workers=2)) as workers, Client(workers) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    store.create({"models": "none"})
    return store


@pytest.fixture
def parts() -> list[Partition]:
    return cut_sequence(annotation.mock(frames=FRAMES), "a.nc", "key", SIZE, uses_boxes=False)


def estimator(store: FeatureStore) -> Estimator:
    folder = store.folder
    return Estimator(ModelSettings(), EstimateSettings(association="person"), folder, folder, folder, "{}")


def write(partition: Partition, estimator: Estimator) -> Receipt:
    """A task that writes a valid file of random values at once."""
    store = FeatureStore(estimator.features)
    store.record_attempt(partition.id)
    ds = features.mock(partition.key, partition.rows, first=partition.first)
    ds.attrs["partition"] = partition.id
    return write_partition(ds, partition, store)


def write_and_tell(partition: Partition, estimator: Estimator) -> Receipt:
    return replace(write(partition, estimator), wait_s=0.5, model_s=1.5)


def write_or_raise(partition: Partition, estimator: Estimator) -> Receipt:
    if partition.first == SIZE:
        raise ValueError("the second partition is cursed")
    return write(partition, estimator)


def write_on_a_full_disk(partition: Partition, estimator: Estimator) -> Receipt:
    raise WorkspaceError("The workspace must be writable.", "No space left on device", "Free some space.")


def write_slowly(partition: Partition, estimator: Estimator) -> Receipt:
    time.sleep(0.3)
    return write(partition, estimator)


def write_or_die(partition: Partition, estimator: Estimator) -> Receipt:
    """Kill -9 the worker at the first execution of every third partition, after the file is there."""
    store = FeatureStore(estimator.features)
    if (store.folder / partition.path).exists():  # dask runs it again, too, where the driver was about to ask for it
        return verify_partition(partition, store)
    done = write(partition, estimator)
    attempts = collections.Counter(a["id"] for a in store.attempts())
    if partition.first % (3 * SIZE) == 0 and attempts[partition.id] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return done


def test_every_partition_runs_once_and_then_never_again(
    client: Client, store: FeatureStore, parts: list[Partition]
) -> None:
    outcome = run_partitions(client, parts, estimator(store), store, Silent(), task=write)
    assert outcome.counts == {"ok": FRAMES}
    assert set(store.receipts()) == {p.id for p in parts}
    again = inspect_store(parts, store, verify=True)
    assert not again.todo
    assert collections.Counter(a["id"] for a in store.attempts()) == dict.fromkeys((p.id for p in parts), 1)


def test_the_pace_of_all_partitions_adds_up(client: Client, store: FeatureStore, parts: list[Partition]) -> None:
    outcome = run_partitions(client, parts, estimator(store), store, Silent(), task=write_and_tell)
    assert (outcome.pace.wait_s, outcome.pace.model_s) == (0.5 * len(parts), 1.5 * len(parts))
    assert outcome.pace.waiting == 0.25


def test_a_partition_that_raises_costs_itself(client: Client, store: FeatureStore, parts: list[Partition]) -> None:
    outcome = run_partitions(client, parts, estimator(store), store, Silent(), task=write_or_raise)
    assert outcome.counts == {"ok": FRAMES - SIZE}
    assert outcome.failed == {parts[1].id: "ValueError: the second partition is cursed"}
    (listed,) = store.failures()
    assert listed["frames"] == f"{SIZE}-{2 * SIZE - 1}"
    assert [p.id for p in inspect_store(parts, store).todo] == [parts[1].id]


def test_a_full_disk_stops_the_run(client: Client, store: FeatureStore, parts: list[Partition]) -> None:
    with pytest.raises(WorkspaceError, match="No space left"):
        run_partitions(client, parts, estimator(store), store, Silent(), task=write_on_a_full_disk)
    assert not store.receipts()


def test_stopping_finishes_what_runs_and_leaves_the_rest(
    client: Client, store: FeatureStore, parts: list[Partition]
) -> None:
    outcome = run_partitions(
        client, parts, estimator(store), store, Silent(), task=write_slowly, tick=lambda outcome, running: True
    )
    assert outcome.stopped
    left = inspect_store(parts, store)
    assert left.finished
    assert left.todo
    assert left.adopted == 0  # every file that was begun has its receipt
    run_partitions(client, left.todo, estimator(store), store, Silent(), task=write)
    assert not inspect_store(parts, store).todo


def write_at_leisure(partition: Partition, estimator: Estimator) -> Receipt:
    (estimator.features / f"begun-{partition.first}").touch()
    time.sleep(300)
    return write(partition, estimator)


def begun(store: FeatureStore) -> int:
    return len(list(store.folder.glob("begun-*")))


@pytest.mark.slow
def test_after_a_stop_the_run_still_listens(store: FeatureStore, parts: list[Partition]) -> None:
    """Stop, and then stop --now: the second is heard while partitions finish."""
    running: list[int] = []

    def tick(outcome: Outcome, under_way: int) -> bool:
        if outcome.stopped:
            running.append(under_way)
        if len(running) == 2:
            raise KeyboardInterrupt
        return begun(store) == 2

    with (
        cluster.start(ClusterConfig(workers=2)) as workers,
        Client(workers) as client,
        pytest.raises(KeyboardInterrupt),
    ):
        run_partitions(client, parts, estimator(store), store, Silent(), task=write_at_leisure, tick=tick)
    assert all(running)


@pytest.mark.slow
def test_after_a_stop_no_partition_waits_for_another_worker(store: FeatureStore, parts: list[Partition]) -> None:
    """The only worker goes, and no other comes: what it had is left to do."""
    with cluster.start(ClusterConfig(workers=1)) as workers, Client(workers) as client:

        def tick(outcome: Outcome, under_way: int) -> bool:
            if begun(store) and not outcome.stopped:
                workers.scale(0)
            return begun(store) > 0

        outcome = run_partitions(client, parts, estimator(store), store, Silent(), task=write_at_leisure, tick=tick)
    assert outcome.stopped
    assert not outcome.failed
    assert begun(store) == 1
    assert inspect_store(parts, store).todo == parts


@pytest.mark.slow
def test_workers_that_die_lose_nothing(store: FeatureStore, parts: list[Partition]) -> None:
    settings = ClusterConfig(workers=2)
    with cluster.start(settings) as workers, Client(workers) as client:
        outcome = run_partitions(client, parts, estimator(store), store, Silent(), task=write_or_die)
    assert not outcome.failed
    assert outcome.counts == {"ok": FRAMES}
    assert not inspect_store(parts, store, verify=True).todo


def _fill(store: FeatureStore, parts: list[Partition], receipts: bool = True) -> None:
    for part in parts:
        receipt = write(part, estimator(store))
        if receipts:
            store.add_receipt(receipt)


def test_files_without_receipts_are_opened_and_adopted(store: FeatureStore, parts: list[Partition]) -> None:
    _fill(store, parts, receipts=False)
    (store.folder / parts[2].path).write_bytes(b"half a file")
    found = inspect_store(parts, store)
    assert found.adopted == len(parts) - 1
    assert [p.id for p in found.todo] == [parts[2].id]
    reconcile_store(found, parts, store)
    assert len(store.receipts()) == len(parts) - 1
    assert inspect_store(parts, store).adopted == 0
    assert (store.folder / parts[2].path).with_suffix(".damaged").exists()


def test_damaged_and_lost_files_run_again(store: FeatureStore, parts: list[Partition]) -> None:
    _fill(store, parts)
    (store.folder / parts[0].path).unlink()
    path = store.folder / parts[1].path
    path.write_bytes(path.read_bytes()[:-100])
    flipped = store.folder / parts[3].path
    content = bytearray(flipped.read_bytes())
    content[-50] ^= 0xFF
    flipped.write_bytes(content)
    found = inspect_store(parts, store)
    assert [p.id for p in found.todo] == [parts[0].id, parts[1].id]
    assert "gone" in found.damaged[0]
    assert f"not {path.stat().st_size + 100}" in found.damaged[1]
    # A flipped bit keeps the size: it takes --verify to see it.
    assert parts[3] in inspect_store(parts, store, verify=True).todo


def test_a_file_that_is_visible_late_is_not_lost(
    store: FeatureStore, parts: list[Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.store.listing.PAUSES", (1, 2, 3, 4))
    _fill(store, parts)
    hidden = store.folder / parts[2].path
    aside = hidden.with_name("seen-by-others")
    hidden.rename(aside)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            aside.rename(hidden)

    assert not inspect_store(parts, store, sleep=sleep).todo
    assert len(looks) == 3
    # What was written long ago and isn't there is lost at once.
    hidden.unlink()
    monkeypatch.setattr("etl.store.listing.time.time", lambda: time.monotonic() + 1e10)
    found = inspect_store(parts, store, sleep=lambda _: pytest.fail("it waited"))
    assert found.damaged == [f"{parts[2].path}: the file is gone"]


def test_what_the_dead_were_writing_is_removed(store: FeatureStore, parts: list[Partition]) -> None:
    _fill(store, parts)
    torn = (store.folder / parts[0].path).with_name(".x.nc.host.1.2.tmp")
    torn.touch()
    reconcile_store(inspect_store(parts, store), parts, store)
    assert not torn.exists()
    assert not inspect_store(parts, store).todo


def test_files_of_replaced_media_are_set_aside(store: FeatureStore, parts: list[Partition]) -> None:
    _fill(store, parts)
    ds = annotation.mock(frames=FRAMES).assign_attrs(media_bytes=999)
    new = cut_sequence(ds, "a.nc", "key", SIZE, uses_boxes=False)
    found = inspect_store(new, store)
    assert len(found.todo) == len(new)
    reconcile_store(found, new, store)
    assert not list(store.folder.rglob("*.nc"))
    assert len(list(store.folder.rglob("*.superseded"))) == len(parts)


def test_a_file_of_another_partition_is_not_taken(store: FeatureStore, parts: list[Partition]) -> None:
    _fill(store, parts[:1], receipts=False)
    (store.folder / parts[0].path).rename(store.folder / parts[1].path)
    found = inspect_store(parts[:2], store)
    assert not found.finished
    assert json.dumps(found.damaged).count("isn't this partition's") == 1


def poison_once(partition: Partition, estimator: Estimator) -> Receipt:
    """Writes, but on the first worker that has the first partition the GPU fails, for good."""
    note = estimator.features / "poisoned"
    if partition.first == 0 and not note.exists():
        note.write_text(str(os.getpid()))
    if note.exists() and note.read_text() == str(os.getpid()):
        raise DeviceError("A worker's GPU answers.", "CUDA error: unspecified launch failure", "Exclude it.")
    return write(partition, estimator)


def test_a_worker_whose_gpu_fails_is_replaced(client: Client, store: FeatureStore, parts: list[Partition]) -> None:
    outcome = run_partitions(client, parts, estimator(store), store, Silent(), task=poison_once)
    assert outcome.failed == {}
    assert outcome.counts.total() == FRAMES
    processes = client.run(os.getpid)
    assert int((store.folder / "poisoned").read_text()) not in processes.values()
