"""Whose turn it is in a worker, so that its networks don't rest between two partitions.

A partition has its files opened (videos may be copied to the node first), its frames decoded, its networks run, and its
file written; networks have to do with the third alone. So once all frames of a partition are decoded, its worker begins
the next one, whose files are opened and first frames decoded while the networks finish the first, and the first is
written while they work on the next. Two partitions are under way at most: the next but one waits until the first is
written, which may take long on a full disk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distributed import secede


def begin_another() -> None:
    """Let the worker whose task this thread runs begin another; nothing elsewhere."""
    with contextlib.suppress(ValueError):  # no worker
        secede()


class Turns:
    """The turns of one process.

    Parameters
    ----------
    begin : callable
        Has the worker begin another partition, in a thread of its own.
    """

    def __init__(self, begin: Callable[[], None] = begin_another) -> None:
        self.begin = begin
        self.networks = threading.Lock()
        self._under_way = 0
        self._counting = threading.Lock()

    @contextmanager
    def partition(self) -> Iterator[Turn]:
        """From a partition's beginning until it is written."""
        turn = Turn(self, self._count(1) == 1)
        try:
            yield turn
        finally:
            self._count(-1)

    def _count(self, change: int) -> int:
        with self._counting:
            self._under_way += change
            return self._under_way

    @property
    def under_way(self) -> int:
        """How many partitions have begun and aren't written."""
        return self._count(0)


class Turn:
    """One partition's.

    Parameters
    ----------
    turns : Turns
        Of the process.
    alone : bool
        Whether no other partition was under way when this one began.
    """

    def __init__(self, turns: Turns, alone: bool) -> None:
        self._turns = turns
        self._since = time.perf_counter() if alone else None
        self._next_begun = False

    @contextmanager
    def networks(self) -> Iterator[None]:
        """While it has the networks; waits until the partition before is done with them."""
        with self._turns.networks:
            if self._since is None:
                self._since = time.perf_counter()
            yield

    def begin_next(self) -> None:
        """Have the worker begin the next partition, once, and only if the one before this is written.

        To be called whenever this partition has decoded all its frames.
        """
        if not self._next_begun and self._turns.under_way == 1:
            self._next_begun = True
            self._turns.begin()

    @property
    def seconds(self) -> float:
        """Since it began, or, if it began beside another, since it has had the networks."""
        return 0.0 if self._since is None else time.perf_counter() - self._since
