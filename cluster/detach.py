"""Put the driver itself into a small batch job, for sites that end long processes on login nodes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import commands, files
from cluster.config import ClusterConfig, walltime_seconds
from cluster.errors import ClusterError, SubmissionRejected
from cluster.folders import run_base


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
    base = files.private_folder(run_base(config, folder))
    files.private_folder(base / "jobs")
    path = base / "driver.sh"
    files.write_private(path, script(config, arguments, base))
    try:
        return commands.run(["sbatch", "--parsable", str(path)]).split(";")[0].strip()
    except commands.CommandFailed as error:
        raise SubmissionRejected(
            "SLURM takes the driver's job.", str(error), "Check slurm.driver in the profile; its script is driver.sh."
        ) from error
