from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from etl.stages.flight import Flight, Lanes
from etl.stages.throughput import WorkTimes


def fly(
    work: Callable[[int], int],
    batches: Iterable[int],
    lanes: Lanes | None = None,
    landed: list[int] | None = None,
) -> list[int]:
    """Results of batches, as they land."""
    landed = [] if landed is None else landed
    with Flight(work, landed.append, lanes) as flight:
        for batch in flight.measure(batches):
            flight.launch(batch)
    return landed


def test_results_land_in_the_order_of_the_batches() -> None:
    draws = random.Random(0)
    pauses = [draws.random() / 200 for _ in range(40)]

    def work(batch: int) -> int:
        time.sleep(pauses[batch])
        return batch

    assert fly(work, list(range(40)), Lanes(3)) == fly(work, list(range(40))) == list(range(40))


def test_a_few_batches_are_in_flight_and_no_more() -> None:
    lanes, lock = Lanes(3), threading.Lock()
    together, most, launched = 0, 0, 0
    ahead: list[int] = []

    def batches() -> Iterator[int]:
        nonlocal launched
        for batch in range(20):
            launched += 1
            yield batch

    def work(batch: int) -> int:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.005)
        with lock:
            together -= 1
        return batch

    with Flight(work, lambda batch: ahead.append(launched - batch), lanes) as flight:
        for batch in flight.measure(batches()):
            flight.launch(batch)
    assert most == 3
    # Batches that have been taken and haven't landed: one a thread, and one that waits for a thread.
    assert max(ahead) == 4


def test_without_threads_a_batch_lands_before_the_next_is_taken() -> None:
    events: list[str] = []

    def batches() -> Iterator[int]:
        for batch in range(3):
            events.append(f"taken {batch}")
            yield batch

    with Flight(lambda batch: batch, lambda batch: events.append(f"landed {batch}")) as flight:
        for batch in flight.measure(batches()):
            flight.launch(batch)
    assert events == [f"{what} {batch}" for batch in range(3) for what in ("taken", "landed")]


def test_an_error_comes_after_the_batches_before_it_and_leaves_nothing_running() -> None:
    landed, ended = list[int](), list[int]()

    def work(batch: int) -> int:
        if batch == 2:
            raise RuntimeError("the GPU fell off the bus")
        time.sleep(0.01)
        ended.append(batch)
        return batch

    with pytest.raises(RuntimeError, match="fell off"):
        fly(work, range(100), Lanes(2), landed)
    assert landed == [0, 1]
    count = len(ended)
    assert count < 6
    time.sleep(0.05)
    assert len(ended) == count


def test_an_error_of_the_source_is_the_consumers() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError("gone")

    landed: list[int] = []
    with pytest.raises(RuntimeError, match="gone"):
        fly(lambda batch: batch, broken(), landed=landed)
    assert landed == [1]


def test_a_batch_alone_has_nothing_beside_it() -> None:
    lanes, lock = Lanes(4), threading.Lock()
    inside: list[str] = []
    seen: list[tuple[str, ...]] = []

    def work(batch: int) -> int:
        kind = "alone" if batch % 5 == 0 else "together"
        with getattr(lanes, kind)():
            with lock:
                inside.append(kind)
                seen.append(tuple(inside))
            time.sleep(0.002)
            with lock:
                inside.remove(kind)
        return batch

    assert fly(work, list(range(60)), lanes) == list(range(60))
    assert all(beside == ("alone",) for beside in seen if "alone" in beside)
    assert any(len(beside) > 1 for beside in seen)


def test_a_batch_alone_that_fails_lets_the_others_go_on() -> None:
    lanes = Lanes(2)
    for context in (lanes.alone, lanes.together, lanes.alone):
        with pytest.raises(RuntimeError, match="no"), context():
            raise RuntimeError("no")
    with lanes.together(), lanes.together():
        pass


def test_waiting_and_work_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("etl.stages.flight.time.perf_counter", lambda: now)

    def slow() -> Iterator[str]:
        nonlocal now
        for item in "ab":
            now += 2
            yield item
        now += 4

    def work(item: str) -> str:
        nonlocal now
        now += 8
        return item

    seen: list[str] = []
    now += 50  # the networks are another partition's
    with Flight(work, seen.append) as flight:
        now += 50
        for item in flight.measure(slow()):
            flight.launch(item)
    assert seen == ["a", "b"]
    assert (flight.times.wait_s, flight.times.model_s) == (2 + 2 + 4, 8 + 8)
    assert flight.times.waiting == pytest.approx(1 / 3)
    assert WorkTimes().waiting == 0


def test_frames_that_come_while_a_batch_is_in_flight_are_no_waiting() -> None:
    release = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        time.sleep(0.2)  # the first is in flight
        yield 1
        release.set()

    with Flight(lambda batch: release.wait(10), lambda _: None, Lanes(2)) as flight:
        for batch in flight.measure(slow()):
            flight.launch(batch)
    assert flight.times.wait_s < 0.1 < flight.times.model_s
