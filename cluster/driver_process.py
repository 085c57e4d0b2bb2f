"""The process that drives a run, and whether it is alive.

On this host the process table is certain. A process on another host is judged by its last heartbeat.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

STALE_AFTER = 120.0  # seconds without a heartbeat, on other hosts; clocks differ, and shared disks lag


class DriverProcess(BaseModel):
    """A process that drives a run.

    Parameters
    ----------
    host : str
        Its host.
    pid : int
        Its process id there.
    born : float
        When it started, in seconds of the epoch by its host's clock; process ids are reused.
    job : str, optional
        The SLURM job that it runs in.
    token : str
        Distinguishes two runs of one process.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    born: float
    job: str | None = None
    token: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" in SLURM job {self.job}" if self.job else "")

    @classmethod
    def current(cls) -> DriverProcess:
        """The calling process."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            born=psutil.Process().create_time(),
            job=os.environ.get("SLURM_JOB_ID"),
            token=secrets.token_hex(8),
        )

    @classmethod
    def parse(cls, text: str) -> DriverProcess | None:
        """Parse the JSON of an owner.json; None when it is incomplete."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @property
    def on_this_host(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def is_alive(self, heartbeat: float, now: float | None = None) -> bool:
        """Whether the process is alive, given the epoch second of its last heartbeat."""
        if not self.on_this_host:
            return (time.time() if now is None else now) - heartbeat < STALE_AFTER
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.born) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # denied: another user's process has the id now
            return False


def disk_time(folder: Path) -> float:
    """Epoch second by the clock of the file system of `folder`, comparable with its modification times."""
    probe = folder / f".clock.{secrets.token_hex(6)}"
    try:
        probe.touch(mode=0o600)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
