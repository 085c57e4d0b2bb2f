"""Progress on the terminal: a bar, or lines in a log file."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from etl.stages.progress import duration


class ProgressBar:
    """Progress bar with rate, failures and time left; without a terminal, a line every `interval` seconds.

    Parameters
    ----------
    console : Console, optional
        Where to write. Default: standard error, so that standard output holds results only.
    interval : float
        Seconds between lines in a log.
    """

    def __init__(self, console: Console | None = None, interval: float = 15.0) -> None:
        self.console = console or Console(stderr=True)
        self.interval = interval
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()

    def start(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        """See Reporter."""
        self._stop_bar()
        self._title, self._total, self._done, self._unit = title, total, done, unit
        self._begun, self._first, self._failed = time.monotonic(), done, 0
        self._last_line = self._begun
        if self.console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(finished_text=" "),
                TextColumn("{task.description:<9}", markup=False),  # names and paths may hold brackets
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}", markup=False),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task(title, total=max(total, 1), completed=done, text="")

    def advance(self, units: int, failed: int = 0) -> None:
        """See Reporter."""
        self._done += units
        self._failed += failed
        text = self._text()
        if not self.console.is_terminal:  # it was closed, so the output goes into a log
            self._stop_bar()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, text=text)
        elif time.monotonic() - self._last_line >= self.interval:
            self._last_line = time.monotonic()
            self.console.print(f"{self._title}: {text}", highlight=False, soft_wrap=True, markup=False)

    def _text(self) -> str:
        seconds = time.monotonic() - self._begun
        new = self._done - self._first
        rate = new / seconds if seconds > 0 else 0.0
        parts = [f"{self._done:,}/{self._total:,} {self._unit}"]
        if new:
            left = (self._total - self._done) / rate
            parts += [f"{rate:,.1f}/s", f"{duration(left)} left"]
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        return " · ".join(parts)

    def finish(self, summary: str) -> None:
        """See Reporter."""
        self._stop_bar()
        text = Text.assemble((self._title, "bold"), f": {summary}")
        self.console.print(text, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """See Reporter."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
