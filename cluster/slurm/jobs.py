"""The jobs of a run: what dask-jobqueue gets for a profile, and the batch script that comes of it."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import dask
from distributed import Security
from distributed.core import Status

from cluster import settings
from cluster.config import ClusterConfig, SlurmConfig, memory_bytes, walltime_seconds
from cluster.copies import VARIABLE
from cluster.slurm import commands
from cluster.slurm.jobqueue import SLURMJob
from cluster.slurm.keys import worker_security
from cluster.slurm.shared_folder import log_path, shared_folder

SECTION = "xycd"  # of dask's configuration: a user's own jobqueue.yaml has no say, its values are unchecked
AT_ONCE = 4  # sbatch processes at a time: slurmctld is shared


class Job(SLURMJob):
    """One job. A refusal of sbatch is kept for the keeper instead of being logged and lost."""

    submit_command = "sbatch --parsable"
    job_id_regexp = r"(?m)^(?P<job_id>\d+)(;|$)"
    config_name = SECTION
    rejection: str | None = None
    _turns: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = WeakKeyDictionary()

    @staticmethod
    async def _call(cmd: list[str], **kwargs: Any) -> str:
        return await commands.call(cmd)

    async def start(self) -> None:
        """Submit; afterwards either `job_id` or `rejection` is set."""
        self.rejection = None
        async with Job._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                self.rejection = str(error)
                self.status = Status.running  # so that the cluster goes on; the keeper submits another

    async def close(self) -> None:
        """Cancel the job, unless its cluster is leaving and cancels all at once."""
        cluster = getattr(self, "_cluster", lambda: None)()
        if cluster is None or not cluster.leaving:
            await super().close()
        self.status = Status.closed


def lifetime(config: SlurmConfig) -> tuple[int, int]:
    """Seconds after which workers leave, and the half-width of the random spread around it.

    A worker leaves at the latest `drain` seconds (at most a fifth of the walltime) before SLURM would kill it; the
    spread, up to 10 minutes or a tenth of the walltime, keeps all workers from leaving together.
    """
    walltime = walltime_seconds(config.walltime)
    drain = min(config.drain, walltime // 5)
    spread = min(600, walltime // 10)
    return walltime - drain - spread, spread


def job_options(config: ClusterConfig, folder: Path, job_name: str, security: Security | None) -> dict[str, Any]:
    """What dask-jobqueue's job gets, for the profile `config.slurm`.

    Parameters
    ----------
    config : ClusterConfig
        The whole of it.
    folder : Path
        The run's folder, on shared disk.
    job_name : str
        The same for all jobs of a run, and no other's.
    security : Security, optional
        With paths of key files.
    """
    slurm = config.slurm
    leave, spread = lifetime(slurm)
    directives = ["--nodes=1", "--no-requeue", f"--output={log_path(folder)}", "--open-mode=append"]
    for option in ("qos", "constraint", "exclude", "gres"):
        if getattr(slurm, option) is not None:
            directives.append(f"--{option}={getattr(slurm, option)}")
    environment = settings.environment(slurm.cpus) | settings.as_environment(settings.WORKER)
    several = slurm.workers_per_job > 1
    arguments = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]  # the port is opened all the same
    arguments += ["--lifetime", f"{leave}s", "--lifetime-stagger", f"{spread}s"]
    if config.staging.folder is not None:
        environment[VARIABLE] = config.staging.folder
        arguments += ["--preload-nanny", "cluster.copies"]
    if slurm.worker_ports:
        arguments += ["--worker-port", slurm.worker_ports, "--nanny-port", slurm.worker_ports]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    if several:
        arguments.append("--nanny")  # dask-jobqueue says so for dask's own command only
    return {
        "config_name": SECTION,
        "job_name": job_name,
        "queue": slurm.partition,
        "account": slurm.account,
        "walltime": slurm.walltime,
        "job_cpu": slurm.cpus,
        "job_mem": slurm.memory,
        "cores": 1,  # threads of a worker: one partition at a time
        "processes": 1,
        "memory": f"{memory_bytes(slurm.memory) // slurm.workers_per_job}B",
        "job_extra_directives": directives + list(slurm.directives),
        "job_script_prologue": ["umask 077", *slurm.prologue, *exports],
        "worker_command": f"cluster.slurm.launcher {slurm.workers_per_job}"
        if several
        else "distributed.cli.dask_worker",
        "worker_extra_args": arguments,
        "python": slurm.python or shlex.quote(sys.executable),
        "interface": slurm.interface,
        "local_directory": slurm.scratch,
        "death_timeout": 120,
        "security": security,
        "protocol": "tls://" if slurm.tls else "tcp://",
    }


def job_script(config: ClusterConfig, folder: Path | None = None) -> str:
    """The batch script that each job of a run with this profile gets, but for names that the run makes up."""
    folder = shared_folder(config, folder)
    job_name = "xycd-00000000"
    keys = worker_security(folder, job_name) if config.slurm.tls else None
    protocol = "tls" if config.slurm.tls else "tcp"
    with dask.config.set(defaults()):
        job = Job(f"{protocol}://SCHEDULER:PORT", name=f"{job_name}-0", **job_options(config, folder, job_name, keys))
        return job.job_script()


def defaults() -> dict[str, Any]:
    """dask-jobqueue's own defaults, under our section."""
    none = [
        "account", "cores", "death-timeout", "env-extra", "extra", "header-skip", "interface", "job-cpu", "job-extra",
        "job-mem", "local-directory", "log-directory", "memory", "processes", "project", "python", "queue",
        "shared-temp-directory", "walltime",
    ]  # fmt: skip
    section = dict.fromkeys(none) | {
        "name": "xycd",
        "worker-command": "distributed.cli.dask_worker",
        "worker-extra-args": [],
        "job-extra-directives": [],
        "job-script-prologue": [],
        "job-directives-skip": [],
        "scheduler-options": {},
        "shebang": "#!/bin/bash",
    }
    return {f"jobqueue.{SECTION}": section}
