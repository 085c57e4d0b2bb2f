"""When a dataset's features were made: from the first partition's begin to the last one's end, and pauses between."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from etl.store.partition import Receipt

PAUSE: Final = 120.0  # seconds without any partition under way after which a run counts as another


@dataclass(frozen=True)
class Run:
    """A time in which partitions were under way.

    Parameters
    ----------
    begin, end : float
        Epoch seconds, by the workers' clocks.
    partitions, frames : int
        What was finished in it.
    """

    begin: float
    end: float
    partitions: int
    frames: int

    @property
    def seconds(self) -> float:
        """Wall-clock time."""
        return self.end - self.begin

    @property
    def rate(self) -> float:
        """Frames a second of wall-clock time, all workers together."""
        return self.frames / max(self.seconds, 1e-9)


def runs_of(receipts: Iterable[Receipt], pause: float = PAUSE) -> list[Run]:
    """Runs behind the finished partitions, in order; those whose time of writing isn't known are left out."""
    found: list[Run] = []
    timed = [(r.written - r.seconds, r.written, r.frames) for r in receipts if r.written]
    for begin, end, frames in sorted(timed):
        if found and begin - found[-1].end <= pause:
            last = found[-1]
            found[-1] = Run(last.begin, max(last.end, end), last.partitions + 1, last.frames + frames)
        else:
            found.append(Run(begin, end, 1, frames))
    return found


def in_words(at: float) -> str:
    """An epoch second as date and time of this machine's zone."""
    return datetime.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
