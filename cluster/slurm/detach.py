"""Put the driver itself into a small batch job, for sites that end long processes on login nodes."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import files
from cluster.config import ClusterConfig, walltime_seconds
from cluster.control import read_status
from cluster.errors import ClusterError, NoRun, SubmissionRejected
from cluster.slurm import commands
from cluster.slurm.folders import run_base

NOTE = "detached.json"  # in the run's folder: which job is to drive it


def script(config: ClusterConfig, arguments: Sequence[str], folder: Path) -> str:
    """The driver's batch script.

    Parameters
    ----------
    config : ClusterConfig
        `slurm.driver` holds the job's own settings; account, qos, prologue and interpreter are the workers'.
    arguments : sequence of str
        What follows the interpreter, such as ``["-m", "etl.cli", "run", "--config", "xycd.toml"]``.
    folder : Path
        The run's folder; the driver's output goes to `jobs` in it.
    """
    slurm, driver = config.slurm, config.slurm.driver
    # SIGINT is the polite stop: SLURM sends it that long before the walltime.
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
        "--mem": driver.memory,
        "--time": driver.walltime,
        "--signal": f"B:INT@{notice}",
        "--output": f"{folder / 'jobs'}/%j.log",
        "--open-mode": "append",
    }
    directives = [f"{name}={value}" for name, value in options.items() if value is not None]
    directives += ["--no-requeue", *driver.directives]
    lines = [f"#SBATCH {directive}" for directive in directives]
    # exec: SLURM's signals go to the batch shell, and that is the driver then.
    command = f"exec {slurm.python or shlex.quote(sys.executable)} {shlex.join(arguments)}"
    return "\n".join(["#!/bin/bash", *lines, "umask 077", *slurm.prologue, command, ""])


def submit(config: ClusterConfig, arguments: Sequence[str], *, folder: Path | None = None) -> str:
    """Submit the driver.

    Returns
    -------
    str
        Id of its job. Its status appears in the run's folder once it has started.

    Raises
    ------
    SubmissionRejected
        With SLURM's words.
    ClusterError
        When an argument can't stand in a script.
    """
    if any("\n" in argument or "\0" in argument for argument in arguments):
        raise ClusterError("Arguments are single lines.", "a line break", "Rename the file.")
    control = files.private_folder(folder or run_base(config, folder))
    before = pending(control)
    if before is not None:
        raise ClusterError(
            "One driver at a time works in a workspace.",
            f"job {before.id}, {before.state.lower()}, is to drive this one",
            "Watch it with `xycd status`, end it with `xycd stop`, or choose another workspace.",
        )
    base = files.private_folder(run_base(config, folder))
    files.private_folder(base / "jobs")
    path = base / "driver.sh"
    files.write_private(path, script(config, arguments, base))
    try:
        job = commands.run(["sbatch", "--parsable", str(path)]).split(";")[0].strip()
    except commands.CommandFailed as error:
        raise SubmissionRejected(
            "SLURM takes the driver's job.", str(error), "Check slurm.driver in the profile; its script is driver.sh."
        ) from error
    files.write_private(control / NOTE, json.dumps({"job": job}))
    return job


def pending(folder: Path) -> commands.QueuedJob | None:
    """The job of a detached driver that is to work in the run's `folder` and hasn't begun; None where there is none."""
    try:
        job = str(json.loads(files.read_private(folder / NOTE) or "")["job"])
    except (ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(NoRun):
        run = read_status(folder)
        if run.alive or run.owner.job == job:
            return None
    try:
        listed = commands.run(commands.job_command(job), timeout=20)
    except commands.CommandFailed:  # it is long over, or SLURM doesn't answer
        return None
    return commands.parse_queue(listed).get(job)


def cancel_pending(folder: Path) -> str | None:
    """Cancel the job that `pending` finds; its id.

    Raises
    ------
    cluster.slurm.commands.CommandFailed
        With SLURM's words.
    """
    job = pending(folder)
    if job is None:
        return None
    commands.run(["scancel", job.id])
    return job.id
