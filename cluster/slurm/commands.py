"""Run SLURM's commands (sbatch, squeue, scancel) and keep their error messages for the user."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ACTIVE = "PENDING,CONFIGURING,RUNNING,SUSPENDED,REQUEUED,RESIZING,SIGNALING,STAGE_OUT,STOPPED"
FORMAT = "%i|%T|%M|%N|%r"  # as `parse_queue` reads it
ENDED = "BOOT_FAIL,CANCELLED,COMPLETED,DEADLINE,FAILED,NODE_FAIL,OUT_OF_MEMORY,PREEMPTED,TIMEOUT"


class CommandFailed(RuntimeError):
    """A SLURM command failed; the text is its own message.

    It is a RuntimeError because dask-jobqueue expects one.
    """


@dataclass(frozen=True)
class QueuedJob:
    """A job as squeue lists it.

    Parameters
    ----------
    id : str
        Job id.
    state : str
        RUNNING, PENDING, ...
    seconds : int
        Time since it started to run.
    nodes : str
        Its nodes; empty while it waits.
    reason : str
        SLURM's reason for its state, such as Priority.
    """

    id: str
    state: str
    seconds: int = 0
    nodes: str = ""
    reason: str = ""


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for SLURM's commands.

    Inside a job, SLURM_* and SBATCH_* describe that job, and SLURM would apply them to the next one: only SLURM_CONF
    stays. Outside a job they are the user's own defaults and stay.
    """
    environ = os.environ if environ is None else environ
    inside = "SLURM_JOB_ID" in environ or "SLURM_JOBID" in environ
    prefixes = ("SLURM_", "SBATCH_", "SRUN_")
    kept = {k: v for k, v in environ.items() if not (inside and k.startswith(prefixes) and k != "SLURM_CONF")}
    # The user's own defaults for squeue would change the output that `parse_queue` reads.
    return {k: v for k, v in kept.items() if not k.startswith("SQUEUE_")}


def run(argv: Sequence[str], timeout: float = 60) -> str:
    """Run a command and return its output.

    Raises
    ------
    CommandFailed
        With the command's error output, or the reason why it couldn't be run.
    """
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment(),
            stdin=subprocess.DEVNULL,
            check=False,
            start_new_session=True,  # Ctrl-C in the terminal must not interrupt scancel
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{argv[0]} gave no answer within {timeout:.0f} s") from error
    except OSError as error:
        raise CommandFailed(f"{argv[0]} can't be run: {error.strerror}") from error
    if done.returncode:
        words = done.stderr.strip() or done.stdout.strip() or f"{argv[0]} ended with exit status {done.returncode}"
        raise CommandFailed(words)
    return done.stdout


async def call(argv: Sequence[str], timeout: float = 60) -> str:
    """As `run`, without blocking the event loop."""
    return await asyncio.to_thread(run, argv, timeout)


def list_jobs(*selection: str, states: str = ACTIVE, timeout: float = 60) -> dict[str, QueuedJob]:
    """List jobs by id, as squeue reports them.

    Parameters
    ----------
    *selection : str
        Options of squeue, such as those of `jobs_named`.
    states : str
        Comma-separated; `ENDED` jobs are listed as long as slurmctld remembers them, some minutes by default.
    timeout : float
        Seconds.

    Raises
    ------
    CommandFailed
        When squeue fails.
    """
    return parse_queue(run(["squeue", "--noheader", "--all", *selection, "-t", states, "-o", FORMAT], timeout))


def job_is_active(job: str) -> bool:
    """Whether a job waits or runs; True where SLURM can't be asked."""
    try:
        return job in list_jobs("-j", job, timeout=20)
    except CommandFailed as error:
        return "nvalid job id" not in str(error)


def jobs_named(job_name: str) -> list[str]:
    """Options of squeue and scancel that select the user's jobs with this name."""
    return ["-u", str(os.getuid()), f"--name={job_name}"]


def parse_queue(text: str) -> dict[str, QueuedJob]:
    """Jobs by id, from squeue's output in `FORMAT`."""
    jobs = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) == 5:
            jobs[fields[0]] = QueuedJob(fields[0], fields[1], elapsed_seconds(fields[2]), fields[3], fields[4])
    return jobs


def elapsed_seconds(text: str) -> int:
    """Seconds of squeue's elapsed time, [days-][hours:]minutes:seconds; 0 for INVALID."""
    days, _, clock = text.rpartition("-")
    try:
        seconds = 0
        for part in clock.split(":"):
            seconds = seconds * 60 + int(part)
        return int(days or 0) * 86400 + seconds
    except ValueError:
        return 0
