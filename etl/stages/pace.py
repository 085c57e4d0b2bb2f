"""Whether a worker waits for frames or for its networks, and how many threads decode because of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

# Share of the time below which waiting for frames isn't worth a thread, and what another thread has to bring.
_WAITING: Final = 0.05
_GAIN: Final = 1.03


@dataclass
class Pace:
    """Seconds of one partition.

    Parameters
    ----------
    wait_s : float
        In which the networks waited for frames.
    model_s : float
        In which they, and what follows them, worked.
    """

    wait_s: float = 0.0
    model_s: float = 0.0

    def split(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield `batches`; the time until each comes is waiting, that until the next is asked for is work."""
        iterator = iter(batches)
        last = time.perf_counter()
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                self.wait_s += time.perf_counter() - last
                return
            come = time.perf_counter()
            self.wait_s += come - last
            yield batch
            last = time.perf_counter()
            self.model_s += last - come

    @property
    def waiting(self) -> float:
        """Share of the time that is waiting, 0 to 1."""
        return self.wait_s / max(self.wait_s + self.model_s, 1e-9)


class DecodeThreads:
    """How many threads decode, found by trying: twice as many while that pays, from one on.

    A thread more costs the networks a part of their processors, and a decoder with several threads takes more
    processor time a frame than one with one. So threads are added only where the networks wait for frames, and
    are kept only if the partition after that was faster. The number changes no value.

    Parameters
    ----------
    limit : int
        Never more than these: the processors that the worker may use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 1
        self.settled = limit <= 1
        self._rate, self._before = 0.0, 1

    def learn(self, frames: int, pace: Pace, threads: int) -> None:
        """Take note of a partition of `frames` frames that was decoded by `threads` threads."""
        # Where partitions overlap, one has begun before it was known what the one before it teaches.
        if self.settled or threads != self.count:
            return
        rate = frames / max(pace.wait_s + pace.model_s, 1e-9)
        if rate < _GAIN * self._rate:
            self.count, self.settled = self._before, True
        elif pace.waiting > _WAITING and self.count < self.limit:
            self._rate, self._before = rate, self.count
            self.count = min(2 * self.count, self.limit)
        else:
            self.settled = True
