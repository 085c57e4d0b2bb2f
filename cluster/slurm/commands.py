"""SLURM's commands: sbatch, squeue, scancel, with their words kept for the user."""

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
    """A command of SLURM's failed; the text is what it said.

    RuntimeError, because dask-jobqueue expects that of a failed command.
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
        Time that it has been running.
    nodes : str
        Where; empty while it waits.
    reason : str
        Why it waits, in SLURM's words.
    """

    id: str
    state: str
    seconds: int = 0
    nodes: str = ""
    reason: str = ""


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for SLURM's commands.

    Inside a job, SLURM_* and SBATCH_* describe that job and would be taken for options of the next one; SLURM_CONF
    stays. Outside, they are the user's own defaults and stay too.
    """
    environ = os.environ if environ is None else environ
    inside = "SLURM_JOB_ID" in environ or "SLURM_JOBID" in environ
    ours = ("SLURM_", "SBATCH_", "SRUN_")
    kept = {k: v for k, v in environ.items() if not (inside and k.startswith(ours) and k != "SLURM_CONF")}
    # squeue's formats and filters are given in full; a user's defaults would change what is read.
    return {k: v for k, v in kept.items() if not k.startswith("SQUEUE_")}


def run(argv: Sequence[str], timeout: float = 60) -> str:
    """Output of a command.

    Raises
    ------
    CommandFailed
        With what it wrote to stderr, or why it couldn't be run.
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
            start_new_session=True,  # a Ctrl-C in the terminal is for us, not for a half-done scancel
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
    """`run` without blocking the event loop."""
    return await asyncio.to_thread(run, argv, timeout)


def queue_command(job_name: str, states: str = ACTIVE) -> list[str]:
    """The squeue call that lists the jobs of one run: the living, or those `ENDED` that slurmctld still remembers."""
    who = ["-u", str(os.getuid()), f"--name={job_name}"]
    return ["squeue", "--noheader", "--all", *who, "-t", states, "-o", FORMAT]


def job_command(job: str) -> list[str]:
    """The squeue call that lists one job, while it lives."""
    return ["squeue", "--noheader", "--all", "-j", job, "-t", ACTIVE, "-o", FORMAT]


def parse_queue(text: str) -> dict[str, QueuedJob]:
    """Jobs by id, from the output of `queue_command`."""
    jobs = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) == 5:
            jobs[fields[0]] = QueuedJob(fields[0], fields[1], elapsed_seconds(fields[2]), fields[3], fields[4])
    return jobs


def elapsed_seconds(text: str) -> int:
    """Seconds of squeue's elapsed time: [days-][hours:]minutes:seconds; 0 where it says INVALID."""
    days, _, clock = text.rpartition("-")
    try:
        seconds = 0
        for part in clock.split(":"):
            seconds = seconds * 60 + int(part)
        return int(days or 0) * 86400 + seconds
    except ValueError:
        return 0


def cancel_command(job_name: str) -> list[str]:
    """The scancel call that ends all jobs of one run."""
    return ["scancel", "-u", str(os.getuid()), f"--name={job_name}"]
