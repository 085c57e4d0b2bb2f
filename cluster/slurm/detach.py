"""Run the driver itself in a small batch job, for sites that end long processes on login nodes."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import files
from cluster.config import ClusterConfig, memory_directive, walltime_seconds
from cluster.control import ONE_DRIVER, read_status
from cluster.errors import ClusterError, NoRun, SubmissionRejected
from cluster.slurm import commands
from cluster.slurm.shared_folder import log_path, shared_folder

NOTE = "detached.json"  # in the run's folder: the id of the driver's job


def driver_script(config: ClusterConfig, arguments: Sequence[str], folder: Path) -> str:
    """Batch script of the driver.

    Parameters
    ----------
    config : ClusterConfig
        `slurm.driver` holds the job's own settings; account, qos, prologue and interpreter are the workers'.
    arguments : sequence of str
        Arguments of the interpreter, such as ``["-m", "etl.cli", "run", "--config", "xycd.toml"]``.
    folder : Path
        The shared folder, which gets the driver's output.
    """
    slurm, driver = config.slurm, config.slurm.driver
    # SIGINT finishes what is running; SLURM sends it so many seconds before the walltime.
    notice = min(slurm.drain, walltime_seconds(driver.walltime) // 5)
    options = {
        "--job-name": "xycd-driver",
        "--partition": driver.partition or slurm.partition,
        "--account": slurm.account,
        "--qos": slurm.qos,
        "--gres": driver.gres,
        "--nodes": "1",
        "--ntasks": "1",
        "--cpus-per-task": str(driver.cpus),
        "--time": driver.walltime,
        "--signal": f"B:INT@{notice}",
        "--output": str(log_path(folder)),
        "--open-mode": "append",
    }
    directives = [f"{name}={value}" for name, value in options.items() if value is not None]
    per = driver.memory_per or ("job" if slurm.memory_per == "gpu" else slurm.memory_per)
    memory = memory_directive(driver.memory, "job" if driver.memory == "all" else per)
    directives += [*([memory] if memory else []), "--no-requeue", *driver.directives]
    lines = [f"#SBATCH {directive}" for directive in directives]
    # SLURM sends its signals to the batch shell; `exec` replaces the shell by the driver.
    command = f"exec {slurm.python or shlex.quote(sys.executable)} {shlex.join(arguments)}"
    return "\n".join(["#!/bin/bash", *lines, "umask 077", *slurm.prologue, command, ""])


def submit_driver(config: ClusterConfig, arguments: Sequence[str], *, folder: Path | None = None) -> str:
    """Submit the driver's job and return its id; its status appears in the run's folder once it has started.

    Raises
    ------
    SubmissionRejected
        With SLURM's message.
    ClusterError
        When an argument has a line break, or another driver is to work in this workspace.
    """
    if any("\n" in argument or "\0" in argument for argument in arguments):
        raise ClusterError(
            "Arguments of a detached run must be single lines.", "a line break in an argument", "Rename the file."
        )
    shared = shared_folder(config, folder)
    run_folder = files.private_folder(folder or shared)
    before = pending_driver(run_folder)
    if before is not None:
        raise ClusterError(
            ONE_DRIVER,
            f"job {before.id}, {before.state.lower()}, is to drive this run",
            "Watch it with `xycd status`, end it with `xycd stop`, or choose another workspace.",
        )
    files.private_folder(files.private_folder(shared) / "jobs")
    path = shared / "driver.sh"
    files.write_private(path, driver_script(config, arguments, shared))
    try:
        job = commands.run(["sbatch", "--parsable", str(path)]).split(";")[0].strip()
    except commands.CommandFailed as error:
        raise SubmissionRejected(
            "SLURM must accept the driver's job.", str(error), "Fix slurm.driver in the profile; see driver.sh."
        ) from error
    files.write_private(run_folder / NOTE, json.dumps({"job": job}))
    return job


def pending_driver(folder: Path) -> commands.QueuedJob | None:
    """The job of a detached driver that has not started yet, in the run's `folder`; None when there is none."""
    try:
        job = str(json.loads(files.read_private(folder / NOTE) or "")["job"])
    except (ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(NoRun):
        run = read_status(folder)
        if run.alive or run.driver.job == job:
            return None
    try:
        return commands.list_jobs("-j", job, timeout=20).get(job)
    except commands.CommandFailed:  # the job ended long ago, or SLURM doesn't answer
        return None


def cancel_pending_driver(folder: Path) -> str | None:
    """Cancel the job that `pending_driver` finds and return its id; `CommandFailed` when scancel fails."""
    job = pending_driver(folder)
    if job is None:
        return None
    commands.run(["scancel", job.id])
    return job.id
