"""Batches in flight: while the GPU works on one batch, another is prepared, and the answers to a third are read.

A network's call returns at once on a GPU; only reading its answer waits. So a few threads, each with a whole batch,
keep the GPU busy: while one waits, another prepares. All partitions of a process share the threads, so the GPU doesn't
wait between partitions either. Results come in the order of the batches, and don't depend on the threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final, Generic, Self, TypeVar

from etl.stages.throughput import WorkTimes

Batch = TypeVar("Batch")
Result = TypeVar("Result")
Item = TypeVar("Item")

THREADS: Final = 5


class Lanes:
    """The threads of one process in which batches run.

    Parameters
    ----------
    threads : int
        Batches at a time.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, "batch")
        self._changed = threading.Condition()
        self._together = self._alone = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context of a batch that others may run beside."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context of a batch that has the GPU's memory to itself: it waits for the others, and they wait for it."""
        with self._changed:
            self._alone += 1
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._together)
                self._together += 1  # nobody else is alone at the same time
            yield
        finally:
            with self._changed:
                self._alone -= 1
                self._together -= 1
                self._changed.notify_all()


class Flight(Generic[Batch, Result]):
    """The batches of one partition that are in flight; a context, which ends when all have landed.

    Parameters
    ----------
    work : callable
        From a batch to its result; runs in a thread of `lanes`.
    land : callable
        Takes the results, in the order of the batches, in the thread of the caller.
    lanes : Lanes or None
        Threads of the process. None runs each batch in the caller's thread, one after the other.
    times : WorkTimes, optional
        Measures the time in which no batch was in flight because the next wasn't there, and the rest.
    """

    def __init__(
        self,
        work: Callable[[Batch], Result],
        land: Callable[[Result], object],
        lanes: Lanes | None = None,
        times: WorkTimes | None = None,
    ) -> None:
        self._work, self._land, self._lanes = work, land, lanes
        self.times = times or WorkTimes()
        self._pending: deque[Future[Result]] = deque()
        self._start = self._landed = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while self._pending and kind is None:
                self._land(self._pending.popleft().result())
        finally:
            for future in self._pending:
                future.cancel()
            wait(self._pending)
            self.times.model_s = time.perf_counter() - self._start - self.times.wait_s

    def launch(self, batch: Batch) -> None:
        """Start a batch. If one for each thread and this one are in flight, wait until the oldest has landed."""
        if self._lanes is None:
            self._land(self._timed(batch))
            return
        self._pending.append(self._lanes.pool.submit(self._timed, batch))
        if len(self._pending) > self._lanes.threads:
            self._land(self._pending.popleft().result())

    def _timed(self, batch: Batch) -> Result:
        try:
            return self._work(batch)
        finally:
            self._landed = time.perf_counter()

    def measure(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield `batches`, and measure how long none is in flight because the next isn't there."""
        iterator = iter(batches)
        self._start = self._landed = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            if all(future.done() for future in self._pending):
                self.times.wait_s += time.perf_counter() - max(asked, self._landed)
            if batch is None:
                return
            yield batch
