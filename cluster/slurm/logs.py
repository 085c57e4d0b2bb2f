"""Logs of a run's jobs, one file a job, in the folder `jobs` of the run."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.control import read_status
from cluster.errors import ClusterError, NoRun

TAIL = 64 * 1024  # bytes read from the end of a log


def jobs_folder(folder: Path) -> Path:
    """Where the jobs of the run in `folder` leave their logs: there, unless the run says that it is elsewhere."""
    try:
        said = read_status(folder).status.get("folder")
    except NoRun:
        said = None
    return Path(said) if isinstance(said, str) else Path(folder)


def listing(folder: Path) -> list[str]:
    """Ids of jobs that have a log, the latest last."""
    found = [path.stem for path in (folder / "jobs").glob("*.log") if path.stem.isascii() and path.stem.isdigit()]
    return sorted(found, key=int)


def tail(folder: Path, job: str, lines: int = 50) -> list[str]:
    """The last lines of a job's log, without empty ones; none where there is no log.

    Raises
    ------
    ClusterError
        When `job` isn't a number.
    """
    if not (job.isascii() and job.isdigit()):
        raise ClusterError("A job is named by its number.", repr(job), "See `xycd logs` for the list.")
    path = folder / "jobs" / f"{job}.log"
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    printable = ("".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines())
    return [line for line in printable if line][-lines:]
