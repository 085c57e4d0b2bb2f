"""Overlap of consecutive partitions in a worker, so that its networks don't wait between them.

A partition has four steps: open its files, decode its frames, run the networks, write its file. Only the third needs
the networks. So a worker starts the next partition once all frames of this one are decoded: the next is opened and
its first frames are decoded while the networks finish this one, and this one is written while the networks work on the
next. At most two partitions are in progress: the one after the next starts when the first is written.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from distributed import secede

T = TypeVar("T")


def free_worker_slot() -> None:
    """Let the worker that runs this thread's task start another task; nothing outside of workers."""
    with contextlib.suppress(ValueError):  # no worker
        secede()


class Overlap:
    """The partitions in progress in one process.

    Parameters
    ----------
    start_next : callable
        Lets the worker start another partition, in a thread of its own.
    """

    def __init__(self, start_next: Callable[[], None] = free_worker_slot) -> None:
        self.start_next = start_next
        self.networks = threading.Lock()
        self._in_progress = 0
        self._counting = threading.Lock()

    @contextmanager
    def partition(self) -> Iterator[InProgress]:
        """Context of one partition, from its start until it is written."""
        progress = InProgress(self, self._count(1) == 1)
        try:
            yield progress
        finally:
            self._count(-1)

    def _count(self, change: int) -> int:
        with self._counting:
            self._in_progress += change
            return self._in_progress

    @property
    def in_progress(self) -> int:
        """Number of partitions that have started and aren't written."""
        return self._count(0)


class InProgress:
    """One partition in progress.

    Parameters
    ----------
    overlap : Overlap
        Of the process.
    alone : bool
        Whether no other partition was in progress when this one started.
    """

    def __init__(self, overlap: Overlap, alone: bool) -> None:
        self._overlap = overlap
        self._since = time.perf_counter() if alone else None
        self._next_started = False

    @contextmanager
    def networks(self) -> Iterator[None]:
        """Hold the networks; waits until the partition before releases them."""
        with self._overlap.networks:
            if self._since is None:
                self._since = time.perf_counter()
            yield

    def start_next_when(self, decoded: threading.Event, batches: Iterable[T]) -> Iterator[T]:
        """Yield `batches`, and start the next partition once all frames are `decoded`, at the latest after the last.

        The next one starts only after the partition before this one is written, so each batch tries again. The worker
        accepts the call from the task's own thread alone, so it can't come from the thread that decodes.
        """
        for batch in batches:
            if decoded.is_set():
                self._start_next()
            yield batch
        self._start_next()

    def _start_next(self) -> None:
        if not self._next_started and self._overlap.in_progress == 1:
            self._next_started = True
            self._overlap.start_next()

    @property
    def seconds(self) -> float:
        """Seconds since the partition started, or, if it started beside another, since it has held the networks."""
        return 0.0 if self._since is None else time.perf_counter() - self._since
