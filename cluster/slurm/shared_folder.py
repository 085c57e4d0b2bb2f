"""The folder on shared disk where the jobs of a run find their keys and write their logs, one `jobs/<id>.log` each."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.config import ClusterConfig, safe_path
from cluster.control import read_status
from cluster.errors import ClusterError, NoRun

TAIL = 64 * 1024  # bytes read from the end of a log


def shared_folder(config: ClusterConfig, folder: Path | None) -> Path:
    """Folder for keys and logs: inside `slurm.folder` if set, else `folder`, else one in the home directory.

    A run makes the folder private. `slurm.folder` itself may belong to a group, so it stays as it is.

    Raises
    ------
    ClusterError
        When the path can't be written into a batch script.
    """
    own = config.slurm.folder and config.slurm.folder / f"xycd-{os.getuid()}"
    chosen = own or folder or Path.home() / ".cache" / "xycd" / "cluster"
    try:
        return safe_path(chosen.absolute())
    except ValueError as error:
        raise ClusterError(
            "The folder of jobs must have a path without special characters.", str(error), "Set slurm.folder."
        ) from error


def shared_folder_of_run(run_folder: Path) -> Path:
    """The shared folder that the run in `run_folder` has published in its status, by default `run_folder`."""
    try:
        published = read_status(run_folder).status.get("folder")
    except NoRun:
        published = None
    return Path(published) if isinstance(published, str) else Path(run_folder)


def log_path(folder: Path, job: str = "%j") -> Path:
    """Path of a job's log; by default with sbatch's placeholder for the job id."""
    return folder / "jobs" / f"{job}.log"


def jobs_with_logs(folder: Path) -> list[str]:
    """Ids of the jobs that have a log, in ascending order."""
    found = [path.stem for path in (folder / "jobs").glob("*.log") if path.stem.isascii() and path.stem.isdigit()]
    return sorted(found, key=int)


def log_tail(folder: Path, job: str, lines: int = 50) -> list[str]:
    """Last lines of a job's log without empty ones; an empty list when there is no log.

    Raises
    ------
    ClusterError
        When `job` isn't a number.
    """
    if not (job.isascii() and job.isdigit()):
        raise ClusterError("A job id must be a number.", f"unknown job {job!r}", "See `xycd logs` for the list.")
    try:
        with log_path(folder, job).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    printable = ("".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines())
    return [line for line in printable if line][-lines:]
