"""The jobs of a run: options of dask-jobqueue for a profile, and the batch script that results."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

import dask
from distributed import Security
from distributed.core import Status

from cluster import settings
from cluster.config import ClusterConfig, SlurmConfig, memory_directive, walltime_seconds
from cluster.slurm import commands
from cluster.slurm.jobqueue import SLURMJob
from cluster.slurm.keys import worker_security
from cluster.slurm.shared_folder import log_path, shared_folder

SECTION = "xycd"  # of dask's configuration; a user's own jobqueue.yaml is ignored, since its values are unchecked
AT_ONCE = 4  # sbatch processes at a time, since slurmctld is shared

# MB of a job that asked for no memory, or for a whole node's; 0, which is no limit for dask, where SLURM doesn't say.
_MEMORY_OF_JOB: Final = "${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-1}))}"


class WorkerJob(SLURMJob):
    """One job of workers. It keeps a refusal of sbatch for the supervisor, where dask-jobqueue would only log it."""

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
        async with WorkerJob._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                self.rejection = str(error)
                self.status = Status.running  # so that the cluster goes on; the supervisor submits another

    async def close(self) -> None:
        """Cancel the job, unless its cluster is closing and cancels all jobs at once."""
        cluster = getattr(self, "_cluster", lambda: None)()
        if cluster is None or not cluster.closing:
            await super().close()
        self.status = Status.closed


def lifetime(config: SlurmConfig) -> tuple[int, int]:
    """Seconds after which workers leave, and half the width of the random spread around it.

    A worker leaves at least `drain` seconds (at most a fifth of the walltime) before SLURM would kill it. The spread,
    10 minutes or a tenth of the walltime, prevents that all workers leave together.
    """
    walltime = walltime_seconds(config.walltime)
    drain = min(config.drain, walltime // 5)
    spread = min(600, walltime // 10)
    return walltime - drain - spread, spread


def job_options(config: ClusterConfig, folder: Path, job_name: str, security: Security | None) -> dict[str, Any]:
    """Options of dask-jobqueue's job for the profile `config.slurm`.

    Parameters
    ----------
    config : ClusterConfig
        The configuration.
    folder : Path
        The shared folder of the run.
    job_name : str
        Name of all jobs of the run, and of no other job.
    security : Security, optional
        Its values are paths of key files.
    """
    slurm = config.slurm
    leave, spread = lifetime(slurm)
    directives = ["--nodes=1", "--no-requeue", f"--output={log_path(folder)}", "--open-mode=append"]
    for option in ("qos", "constraint", "exclude", "gres"):
        if getattr(slurm, option) is not None:
            directives.append(f"--{option}={getattr(slurm, option)}")
    if memory := memory_directive(slurm.memory, slurm.memory_per):
        directives.append(memory)
    environment = settings.environment(slurm.cpus) | settings.as_environment(settings.WORKER)
    arguments = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]  # the port opens even with --no-dashboard
    arguments += ["--lifetime", f"{leave}s", "--lifetime-stagger", f"{spread}s"]
    if slurm.worker_ports:
        arguments += ["--worker-port", slurm.worker_ports, "--nanny-port", slurm.worker_ports]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    if slurm.job_memory is None:
        exports.append(f"export XYCD_WORKER_MEMORY=$(({_MEMORY_OF_JOB} * 1048576 / {slurm.workers_per_job}))")
        arguments += ["--memory-limit", "$XYCD_WORKER_MEMORY"]  # of two values of an option, dask takes the last
    command = "distributed.cli.dask_worker"
    if slurm.workers_per_job > 1:
        command = f"cluster.slurm.launcher {slurm.workers_per_job}"
        arguments.append("--nanny")  # dask-jobqueue adds it to dask's own command only
    return {
        "config_name": SECTION,
        "job_name": job_name,
        "queue": slurm.partition,
        "account": slurm.account,
        "walltime": slurm.walltime,
        "job_cpu": slurm.cpus,
        "job_mem": "0",  # left out by `job_directives_skip`: ours is one of several options
        "job_directives_skip": ["--mem="],
        "cores": 1,  # threads of a worker: one partition at a time
        "processes": 1,
        "memory": f"{(slurm.job_memory or 0) // slurm.workers_per_job}B",
        "job_extra_directives": directives + list(slurm.directives),
        "job_script_prologue": ["umask 077", *slurm.prologue, *exports],
        "worker_command": command,
        "worker_extra_args": arguments,
        "python": slurm.python or shlex.quote(sys.executable),
        "interface": slurm.interface,
        "local_directory": slurm.scratch,
        "death_timeout": 120,
        "security": security,
        "protocol": "tls://" if slurm.tls else "tcp://",
    }


def job_script(config: ClusterConfig, folder: Path | None = None) -> str:
    """The batch script of each job of a run with this profile, with placeholders for names that a run generates."""
    folder = shared_folder(config, folder)
    job_name = "xycd-00000000"
    keys = worker_security(folder, job_name) if config.slurm.tls else None
    options = job_options(config, folder, job_name, keys)
    with dask.config.set(defaults()):
        return WorkerJob(f"{options['protocol']}SCHEDULER:PORT", name=f"{job_name}-0", **options).job_script()


def defaults() -> dict[str, Any]:
    """dask-jobqueue's own defaults, under the section `SECTION`."""
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
