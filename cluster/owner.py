"""Who drives a run, and whether that process still lives: on this host for certain, elsewhere by its heartbeat."""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

STALE_AFTER = 120.0  # seconds without a heartbeat, for owners on other hosts: clocks differ, shared disks lag


class Owner(BaseModel):
    """A process that drives a run.

    Parameters
    ----------
    host : str
        Its host.
    pid : int
        Its id there.
    born : float
        When it started, seconds of the epoch by its host's clock: ids are used again.
    job : str, optional
        The SLURM job that it runs in.
    token : str
        Tells two runs of one process apart.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    born: float
    job: str | None = None
    token: str = ""

    @classmethod
    def this(cls) -> Owner:
        """The process that calls."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            born=psutil.Process().create_time(),
            job=os.environ.get("SLURM_JOB_ID"),
            token=secrets.token_hex(8),
        )

    @classmethod
    def read(cls, text: str) -> Owner | None:
        """The process that a note is of; None where it isn't whole."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @property
    def here(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def alive(self, heartbeat: float, now: float | None = None) -> bool:
        """Whether the process lives, given the epoch second of its last heartbeat."""
        if not self.here:
            return (time.time() if now is None else now) - heartbeat < STALE_AFTER
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.born) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # someone else's process has the id now
            return False


def disk_time(folder: Path) -> float:
    """Epoch second by the clock of the file system under `folder`, comparable with its modification times."""
    probe = folder / f".clock.{secrets.token_hex(6)}"
    try:
        probe.touch(mode=0o600)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
