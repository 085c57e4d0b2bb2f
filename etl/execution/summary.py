"""Summary of a run on one dataset: counts, failures and training files."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, field
from pathlib import Path

from etl.stages.progress import duration, size


@dataclass
class Summary:
    """Result of a run on one dataset.

    Parameters
    ----------
    dataset : str
        Its name.
    sequences : int
        Annotated sequences that the run covers.
    rows : Counter
        Rows by status, of this run and earlier ones.
    ran, kept : int
        Partitions that this run and earlier runs finished.
    failed : list of str
        Sequences and partitions that failed as a whole, and the error that ended the dataset's run.
    outputs : list of Path
        Training files.
    unchanged : bool
        Whether an earlier run wrote them from the same inputs.
    stopped : bool
        Whether the user stopped the run before its end.
    begun : float
        Start of the run, seconds of the monotonic clock.
    """

    dataset: str
    sequences: int = 0
    rows: collections.Counter[str] = field(default_factory=collections.Counter)
    ran: int = 0
    kept: int = 0
    failed: list[str] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    unchanged: bool = False
    stopped: bool = False
    begun: float = field(default_factory=time.monotonic)

    @property
    def troubled(self) -> bool:
        """Whether anything failed, even a single frame.

        A frame without a person is no failure, nor are the frames that a stopped run didn't reach.
        """
        fine = {"ok", "no_person", *(("not_run",) if self.stopped else ())}
        return bool(self.failed) or not fine.issuperset(+self.rows)

    def text(self) -> str:
        """Summary in a few lines."""
        lines = [f"{self.dataset}: {self.sequences:,} sequences"]
        if self.rows:
            bad = {name: n for name, n in sorted(self.rows.items()) if name != "ok"}
            words = ", ".join(f"{n:,} {name}" for name, n in bad.items()) or "no failures"
            lines.append(f"  frames: {self.rows.total():,}, of which {self.rows['ok']:,} ok ({words})")
        if self.ran or self.kept:
            what = f"{self.ran:,} run" if self.ran else "nothing to do"
            lines.append(f"  partitions: {what}, {self.kept:,} finished earlier")
        lines += [f"  failed: {text}" for text in self.failed[:5]]
        if len(self.failed) > 5:
            lines.append(f"  … and {len(self.failed) - 5} more")
        wrote = "up to date:" if self.unchanged else "wrote"
        lines += [f"  {wrote} {path} ({size(_bytes(path))})" for path in self.outputs]
        if self.stopped:
            lines.append("  stopped before the end; the same command goes on from here")
        lines.append(f"  {duration(time.monotonic() - self.begun)}")
        return "\n".join(lines)


def _bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
