"""Progress of a stage: the protocol of those who show it, and texts for times and sizes."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Shows the progress of a stage."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        """Show that a stage begins; `done` of `total` units are finished already."""
        ...

    def advance(self, units: int, failed: int = 0) -> None:
        """Show that some units are finished, of which `failed` failed."""
        ...

    def finish(self, summary: str) -> None:
        """Show that the stage is over."""
        ...

    def note(self, text: str) -> None:
        """Show a note to the user."""
        ...


class Silent:
    """Reporter that shows nothing."""

    def start(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        """Do nothing."""

    def advance(self, units: int, failed: int = 0) -> None:
        """Do nothing."""

    def finish(self, summary: str) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


def duration(seconds: float) -> str:
    """Time span in words: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Number of bytes with a unit: 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
