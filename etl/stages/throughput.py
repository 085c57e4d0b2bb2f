"""Time that the networks of a worker wait for frames, and the number of decoding threads that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Share of waiting below which no thread is added, and gain in throughput above which an added thread is kept.
_WAITING: Final = 0.05
_GAIN: Final = 1.03


@dataclass
class WorkTimes:
    """Seconds of waiting and of work of one partition."""

    wait_s: float = 0.0  # the networks waited for frames
    model_s: float = 0.0  # the networks, or the steps around them, worked

    @property
    def waiting(self) -> float:
        """Share of waiting, 0 to 1."""
        return self.wait_s / max(self.wait_s + self.model_s, 1e-9)


class DecodeThreads:
    """Number of decoding threads, found by trying: starting with one, doubled while throughput rises.

    Each thread takes processor time from the networks, and several threads take more processor time for each frame than
    one does. So threads are added only while the networks wait for frames, and kept only if the next partition was
    faster. The number changes no value.

    Parameters
    ----------
    limit : int
        Maximum: the processors that the worker may use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 1
        self.settled = limit <= 1
        self._rate, self._before = 0.0, 1

    def learn(self, frames: int, times: WorkTimes, threads: int) -> None:
        """Learn from a partition of `frames` frames that was decoded by `threads` threads."""
        # An overlapping partition may have started before the number of threads changed.
        if self.settled or threads != self.count:
            return
        rate = frames / max(times.wait_s + times.model_s, 1e-9)
        if rate < _GAIN * self._rate:
            self.count, self.settled = self._before, True
        elif times.waiting > _WAITING and self.count < self.limit:
            self._rate, self._before = rate, self.count
            self.count = min(2 * self.count, self.limit)
        else:
            self.settled = True
