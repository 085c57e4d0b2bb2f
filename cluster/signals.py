"""Signals to the driver and its local workers.

Ctrl-C once finishes what is running, twice leaves at once. A closed terminal changes nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """SIGTERM arrived: SLURM announces a kill. Leave at once, through every `finally`."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interrupts:
    """Context manager that handles SIGINT, SIGTERM and SIGHUP during a run.

    The first SIGINT sets `stopping` and calls `on_stop`. The second raises KeyboardInterrupt. Later ones do nothing,
    so that clean-up is not interrupted. SIGTERM raises `Terminated`, once. SIGHUP is ignored. Outside the main
    thread, where Python allows no handlers, the context does nothing.

    Parameters
    ----------
    on_stop : callable, optional
        Called at the first SIGINT. It interrupts any code, so it may only print or set a flag.
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


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C and a closed terminal in a local worker, which preloads this module; its driver stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
