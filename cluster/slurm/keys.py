"""TLS keys of a run on shared disk, in a folder that only its owner can enter; the folder goes when the run ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distributed import Security

from cluster import files
from cluster.driver_process import DriverProcess, disk_time
from cluster.security import make_certificate, security_of

PREFIX = "slurm-"  # of the folder of each run, followed by the name of its jobs


class KeyFolder:
    """The folder of one run's keys, `<base>/slurm-<job name>`, with a note of the driver's process.

    Parameters
    ----------
    base : Path
        Folder on shared disk; made private.
    job_name : str
        Name of the run's jobs.
    tls : bool
        Whether to make keys. Without them, the folder only names the driver of the jobs.
    """

    def __init__(self, base: Path, job_name: str, tls: bool = True) -> None:
        self.path = files.private_folder(files.private_folder(base) / f"{PREFIX}{job_name}")
        self.security: Security | None = None  # of scheduler and clients in this process
        try:
            files.create_private(self.path / "owner.json", DriverProcess.current().model_dump_json())
            if tls:
                certificate, key = make_certificate()
                files.create_private(self.path / "key.pem", key)
                files.create_private(self.path / "certificate.pem", certificate)
                self.security = security_of(certificate, key)
        except BaseException:
            self.remove()
            raise

    def touch(self) -> None:
        """Renew the driver's heartbeat."""
        with suppress(OSError):  # a full or absent disk is noticed by those who need it
            os.utime(self.path / "owner.json")

    def remove(self) -> None:
        """Delete the keys and the folder."""
        _remove(self.path)


def worker_security(base: Path, job_name: str) -> Security:
    """Security of the workers of a run, which read the key files of its `KeyFolder`."""
    folder = base / f"{PREFIX}{job_name}"
    return security_of(str(folder / "certificate.pem"), str(folder / "key.pem"))


def clean_up_dead_runs(base: Path, cancel: Callable[[str], None]) -> list[str]:
    """Remove what killed runs left in `base`: their pending jobs, then their keys.

    Parameters
    ----------
    base : Path
        Folder that runs were started in.
    cancel : callable
        Called with the job name of each dead run; cancels its jobs.

    Returns
    -------
    list of str
        Job names of the removed runs.
    """
    if not base.is_dir():
        return []
    cleaned = []
    now = disk_time(base)
    for folder in sorted(base.glob(f"{PREFIX}*")):
        text = files.read_private(folder / "owner.json")
        try:
            heartbeat = (folder / "owner.json").stat().st_mtime if text else folder.stat().st_mtime
        except FileNotFoundError:  # its run ended just now
            continue
        # A folder with no note, or with half of one, is being made, or its run died while making it.
        driver = DriverProcess.parse(text or "")
        alive = driver.is_alive(heartbeat, now) if driver else now - heartbeat < 60
        if not alive:
            job_name = folder.name.removeprefix(PREFIX)
            cancel(job_name)
            _remove(folder)
            cleaned.append(job_name)
    return cleaned


def _remove(folder: Path) -> None:
    (folder / "key.pem").unlink(missing_ok=True)  # first, in case the rest fails
    shutil.rmtree(folder, ignore_errors=True)
