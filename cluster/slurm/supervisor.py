"""Keep the requested jobs running: replace the lost, the expired and the failed.

dask-jobqueue submits a job once and never looks again. The supervisor compares three views every few seconds: the
jobs that the cluster object requested, those that squeue lists, and the connected workers. While squeue itself fails,
it judges nothing, so a short outage of SLURM costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cluster.errors import ClusterError
from cluster.slurm.commands import CommandFailed, QueuedJob

FIRST_DELAY = 5.0
LONGEST_DELAY = 300.0
ORPHAN_AFTER = 60.0  # seconds; sbatch may time out although it has submitted the job
NO_FAULT = frozenset({"CANCELLED", "PREEMPTED"})  # final states that say nothing about the profile


class SupervisedCluster(Protocol):
    """Interface of a cluster that can be supervised."""

    def requested_jobs(self) -> Mapping[str, str | None]:
        """Job id of each requested worker, by the worker's name; None where sbatch refused it."""
        ...

    def connected(self) -> set[str]:
        """Names of the requested workers that are connected."""
        ...

    def submitted(self) -> Collection[str | None]:
        """Ids of all wanted jobs that sbatch has accepted, including those of a round of submissions in progress."""
        ...

    def log_end(self, job: str) -> str:
        """Last lines of the job's log."""
        ...

    async def queue(self) -> dict[str, QueuedJob]:
        """Active jobs, as squeue lists them; `CommandFailed` when squeue fails."""
        ...

    async def ended(self) -> dict[str, QueuedJob]:
        """Jobs that ended recently and that SLURM still remembers; `CommandFailed` when squeue fails."""
        ...

    async def replace(self, names: list[str]) -> None:
        """Forget the jobs of these workers and submit others."""
        ...

    async def cancel(self, job: str) -> None:
        """Cancel a job."""
        ...


@dataclass
class JobHistory:
    """History of a job that the supervisor keeps between two checks."""

    job: str | None
    connected: bool = False  # whether its worker ever was
    missing_since: float | None = None


@dataclass(frozen=True)
class LostJob:
    """A job that needs a replacement.

    Parameters
    ----------
    name : str
        The worker's name.
    job : str or None
        Its job id; None where sbatch refused it.
    why : {"rejected", "gone", "stuck", "silent"}
        Refused; no longer in the queue; running, but its worker left or froze; running, but no worker ever connected.
    connected : bool
        Whether its worker ever was connected.
    """

    name: str
    job: str | None
    why: str
    connected: bool

    @property
    def running(self) -> bool:
        """Whether the job still runs and must be cancelled first."""
        return self.why in ("stuck", "silent")


def find_lost_jobs(
    requested: Mapping[str, str | None],
    connected: set[str],
    queue: Mapping[str, QueuedJob],
    histories: dict[str, JobHistory],
    now: float,
    *,
    startup: float,
    grace: float,
) -> list[LostJob]:
    """Find the jobs that need replacing, and update `histories`.

    Parameters
    ----------
    requested, connected
        See `SupervisedCluster`. `requested` must be older than `queue`: a job submitted in between would look lost.
    queue : mapping of str to QueuedJob
        Active jobs by id.
    histories : dict of str to JobHistory
        Memory between calls, by worker name.
    now : float
        Seconds of a monotonic clock.
    startup : float
        Seconds that a running job has until its worker must have connected.
    grace : float
        Seconds that a worker which was connected may be away, since its nanny may restart it.
    """
    for name in set(histories) - set(requested):
        del histories[name]
    lost = []
    for name, job in requested.items():
        history = histories.get(name)
        if history is None or history.job != job:
            history = histories[name] = JobHistory(job)
        if name in connected:
            history.connected, history.missing_since = True, None
            continue
        listed = queue.get(job) if job else None
        if listed is None:
            lost.append(LostJob(name, job, "gone" if job else "rejected", history.connected))
        elif listed.state == "RUNNING":
            history.missing_since = now if history.missing_since is None else history.missing_since
            if now - history.missing_since > (grace if history.connected else startup):
                lost.append(LostJob(name, job, "stuck" if history.connected else "silent", history.connected))
        else:
            history.missing_since = None
    return lost


@dataclass
class JobUsage:
    """Run time of a job, as squeue last reported it."""

    job: str
    nodes: str
    seconds: int


@dataclass
class Supervisor:
    """Supervises the jobs of a cluster.

    Parameters
    ----------
    cluster : SupervisedCluster
        The cluster.
    startup, grace : float
        See `find_lost_jobs`.
    give_up_after : int
        Number of consecutive rounds, with growing delays, in which jobs end or stay silent before their worker
        connects. After them `failure` is set, unless other workers are connected.
    interval : float
        Seconds between two looks.
    clock : callable
        Returns monotonic seconds.
    """

    cluster: SupervisedCluster
    startup: float = 600
    grace: float = 30
    give_up_after: int = 10
    interval: float = 5
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    failure: ClusterError | None = None
    problems: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=50))
    listed: dict[str, QueuedJob] = field(default_factory=dict)
    listed_at: float | None = None  # monotonic; None before squeue's first answer
    usage: dict[str, JobUsage] = field(default_factory=dict)
    replaced: int = 0
    on_hold: str = ""  # reason why lost jobs aren't replaced at present
    _histories: dict[str, JobHistory] = field(default_factory=dict)
    _failed_rounds: int = 0  # consecutive rounds in which jobs failed before their worker connected
    _setbacks: int = 0  # the same, plus rounds with rejections or with jobs that somebody cancelled
    _not_before: float = 0
    _orphans: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Supervise until cancelled."""
        while True:
            try:
                await self.step()
            except Exception as error:  # a run whose supervisor dies would starve: report it and go on
                self.report(f"supervisor: {type(error).__name__}: {error}")
            await self.sleep(self.interval)

    async def step(self) -> None:
        """Look once, and replace the lost jobs."""
        requested = dict(self.cluster.requested_jobs())
        try:
            queue = await self.cluster.queue()
        except CommandFailed as error:
            self.report(f"squeue fails, waiting: {error}")
            return
        now = self.clock()
        self.listed, self.listed_at = queue, now
        for job in queue.values():
            if job.seconds:
                self.usage[job.id] = JobUsage(job.id, job.nodes, job.seconds)
        connected = self.cluster.connected()
        before = {name for name, history in self._histories.items() if history.connected}
        lost = find_lost_jobs(requested, connected, queue, self._histories, now, startup=self.startup, grace=self.grace)
        if {name for name, history in self._histories.items() if history.connected} - before:
            self._failed_rounds = self._setbacks = 0  # a worker connected, so the profile works
            self._not_before = 0
        await self._cancel_orphans(requested, now)
        if lost and self.on_hold:
            self.report(f"jobs that end aren't replaced: {self.on_hold}")
        elif lost and now >= self._not_before:
            await self._replace(lost, now)

    async def _replace(self, lost: list[LostJob], now: float) -> None:
        ended = await self._ended(lost)
        setback = [one for one in lost if not one.connected]
        failed = [one for one in setback if one.job and (one.job not in ended or ended[one.job].state not in NO_FAULT)]
        for one in lost:
            if one.why != "rejected":  # reported when it happened
                self.report(self._message(one, ended.get(one.job or "")))
            if one.running and one.job:
                await self.cluster.cancel(one.job)
        self._failed_rounds += bool(failed)
        if failed and self._failed_rounds >= self.give_up_after and not self.cluster.connected():
            job = failed[-1].job or ""
            self.failure = self.failure or ClusterError(
                "A job must start a worker that connects to the scheduler.",
                f"no worker in {self._failed_rounds} rounds of jobs; job {job}{_final_state(ended.get(job))} said: "
                f"{self.cluster.log_end(job)}",
                "Check prologue, python and interface in the profile with `xycd plan` and `xycd check`.",
            )
            return
        if setback:
            # The first retry is immediate, later ones wait longer and longer.
            self._not_before = now + min(LONGEST_DELAY, FIRST_DELAY * 2.0**self._setbacks)
            self._setbacks += 1
        self.replaced += len(lost)
        await self.cluster.replace([one.name for one in lost])

    async def _ended(self, lost: list[LostJob]) -> dict[str, QueuedJob]:
        """Recently ended jobs, where one is gone whose worker never connected; else none are needed."""
        if not any(one.why == "gone" and not one.connected for one in lost):
            return {}
        try:
            return await self.cluster.ended()
        except CommandFailed:
            return {}

    def _message(self, lost: LostJob, ended: QueuedJob | None) -> str:
        if lost.why == "silent":
            return f"job {lost.job} runs, but no worker connected within {self.startup:.0f} s; replaced"
        if lost.why == "stuck":
            return f"job {lost.job} runs, but its worker is gone; replaced"
        if lost.connected or (ended is not None and ended.state in NO_FAULT):
            return f"job {lost.job} is gone{_final_state(ended)}; replaced"
        log = self.cluster.log_end(lost.job or "")
        return f"job {lost.job} ended before its worker connected{_final_state(ended)}: {log}"

    async def _cancel_orphans(self, requested: Mapping[str, str | None], now: float) -> None:
        """Cancel jobs of this run that belong to no requested worker."""
        known = {*requested.values(), *self.cluster.submitted()}
        self._orphans = {job: self._orphans.get(job, now) for job in self.listed if job not in known}
        for job, since in list(self._orphans.items()):
            if now - since > ORPHAN_AFTER:
                self.report(f"job {job} belongs to no worker; cancelled")
                await self.cluster.cancel(job)
                del self._orphans[job]

    def report(self, text: str) -> None:
        """Add a problem to the status; a repetition of the last one only renews its time."""
        if self.problems and self.problems[-1][1] == text:
            self.problems.pop()
        self.problems.append((self.wall_clock(), text))


def _final_state(job: QueuedJob | None) -> str:
    """State of an ended job in brackets, with SLURM's reason where it explains that state."""
    if job is None:
        return ""
    explains = job.state not in NO_FAULT and job.reason not in ("", "None")  # else it explains an earlier wait
    return f" ({job.state}, {job.reason})" if explains else f" ({job.state})"
