"""Waiting for space: a write that fails because disk, quota or inodes are used up is tried again.

What was computed stays in memory meanwhile, and isn't computed anew.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from etl.errors import SpaceError
from etl.store.events import tell
from etl.store.workspace import EXHAUSTED, disk_error

T = TypeVar("T")

FIRST_PAUSE: Final = 1.0  # seconds
LONGEST_PAUSE: Final = 60.0
OVERDUE: Final = 30.0  # seconds after the announced time at which a silent worker counts as gone
PROBE: Final = b"\0" * 4096

_leaving = threading.Event()


def leave() -> None:
    """End all waiting in this process; whatever waits raises what it waits because of."""
    _leaving.set()


def pauses() -> Iterator[float]:
    """Seconds between tries: doubled each time up to a minute, and spread, since many workers may wait."""
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.75, 1)
        pause = min(2 * pause, LONGEST_PAUSE)


def once_there_is_space(
    write: Callable[[], T],
    patience: float,
    *,
    say: Callable[..., None] = tell,
    sleep: Callable[[float], bool] = _leaving.wait,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call `write` until it raises no `SpaceError`, and tell the driver about the wait.

    Parameters
    ----------
    write : callable
        Writes what was computed; safe to call again.
    patience : float
        Seconds to wait at most; 0: `write` is called once.
    say : callable
        Gets "waiting", with `reason` and `again` (seconds to the next try), and "written"; by default the driver is
        told.
    sleep : callable
        Waits so many seconds; true if the waiting is to end.
    clock : callable
        Seconds.

    Returns
    -------
    T
        What `write` returned.

    Raises
    ------
    etl.errors.SpaceError
        The last one, when patience is at its end or `leave` was called.
    """
    begun, waited = clock(), False
    _leaving.clear()  # what was asked of an earlier task
    for pause in pauses():
        try:
            result = write()
        except SpaceError as error:
            left = patience - (clock() - begun)
            if left <= 0:
                raise
            pause = min(pause, left)
            say("waiting", reason=error.found, again=round(pause, 1))
            waited = True
            if sleep(pause):
                raise
        else:
            if waited:
                say("written")
            return result
    raise AssertionError("pauses never end")


@dataclass
class Waiting:
    """Who waits for space, as the driver knows it.

    Parameters
    ----------
    clock : callable
        Seconds.
    """

    clock: Callable[[], float] = time.monotonic
    reasons: dict[str, str] = field(default_factory=dict)  # by worker
    _due: dict[str, float] = field(default_factory=dict)

    def note(self, notice: Mapping[str, Any]) -> None:
        """Take a worker's word."""
        worker = str(notice["worker"])
        if notice["kind"] == "waiting":
            self.reasons[worker] = str(notice["reason"])
            self._due[worker] = self.clock() + float(notice["again"]) + OVERDUE
        elif notice["kind"] == "written":
            self.forget(worker)

    def forget(self, worker: str) -> None:
        """It waits no more."""
        self.reasons.pop(worker, None)
        self._due.pop(worker, None)

    def drop_the_silent(self) -> list[str]:
        """Forget workers that should have tried again and said nothing; which."""
        silent = [worker for worker, due in self._due.items() if self.clock() > due]
        for worker in silent:
            self.forget(worker)
        return silent

    def text(self) -> str:
        """One line for people; empty where nobody waits."""
        if not self.reasons:
            return ""
        reason = next(reversed(self.reasons.values()))
        return f"waiting for space: {reason} ({len(self.reasons)} waiting)"


class Ledger:
    """Lines that the driver has to write, kept and tried again while there is no space for them.

    Parameters
    ----------
    patience : float
        Seconds; see `once_there_is_space`.
    clock : callable
        Seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience, self.clock = patience, clock
        self.reason = ""
        self._open: list[Callable[[], None]] = []
        self._since: float | None = None
        self._next = 0.0
        self._pauses = pauses()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, write: Callable[[], None]) -> None:
        """Write a line now, or as soon as there is space; after those that came before it."""
        self._open.append(write)
        if self._since is None:
            self.settle()

    def settle(self) -> None:
        """Try again what is open, if it is time.

        Raises
        ------
        etl.errors.SpaceError
            When patience is at its end.
        """
        if self._since is not None and self.clock() < self._next:
            return
        while self._open:
            try:
                self._open[0]()
            except SpaceError as error:
                self._wait(error)
                return
            del self._open[0]
            self._since, self.reason, self._pauses = None, "", pauses()

    def _wait(self, error: SpaceError) -> None:
        now = self.clock()
        self._since = now if self._since is None else self._since
        if now - self._since >= self.patience:
            raise error
        self.reason, self._next = error.found, now + next(self._pauses)


def is_full(folder: Path) -> str:
    """Why a small file can't be written into `folder`; empty if it can, or if it can't for other reasons."""
    probe = folder / f".probe.{random.getrandbits(48):012x}"
    try:
        probe.write_bytes(PROBE)
    except OSError as error:
        return disk_error(folder, error).found if error.errno in EXHAUSTED else ""
    finally:
        with contextlib.suppress(OSError):  # the folder is gone, say; whoever needs it says so
            probe.unlink(missing_ok=True)
    return ""
