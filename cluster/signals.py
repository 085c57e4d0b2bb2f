"""Signals to the driver: Ctrl-C once to finish what is running, twice to leave at once; no terminal is no matter."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """SIGTERM came: SLURM's way of announcing a kill. Leave at once, by way of every `finally`."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interrupts:
    """Context in which SIGINT, SIGTERM and SIGHUP have the run's meaning.

    The first SIGINT sets `stopping` and calls `on_stop`; the second raises KeyboardInterrupt; later ones do nothing,
    so that cleaning up can't be cut short. SIGTERM raises `Terminated`, once. SIGHUP is ignored. Outside the main
    thread, where Python allows no handlers, all this does nothing.

    Parameters
    ----------
    on_stop : callable, optional
        Called at the first SIGINT, in the middle of anything: print, set a flag, no more.
    """

    def __init__(self, on_stop: Callable[[], None] | None = None) -> None:
        self.stopping = False
        self._leaving = False
        self._on_stop = on_stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            handlers: list[tuple[signal.Signals, Any]] = [
                (signal.SIGINT, self._interrupt),
                (signal.SIGTERM, self._terminate),
                (signal.SIGHUP, signal.SIG_IGN),
            ]
            for number, handler in handlers:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *exc: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._leaving:
            return
        if self.stopping:
            self._leaving = True
            raise KeyboardInterrupt
        self.stopping = True
        if self._on_stop:
            self._on_stop()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if not self._leaving:
            self._leaving = True
            raise Terminated
