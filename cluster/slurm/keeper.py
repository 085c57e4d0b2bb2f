"""Keep the jobs that were asked for: replace the lost, the expired and the failed.

dask-jobqueue submits a job once and never looks again. The keeper compares, every few seconds, three views: the jobs
that the cluster object asked for, those that squeue lists, and the workers that are connected. While squeue itself
fails nothing is judged: SLURM being away for a while costs nothing.
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
ORPHAN_AFTER = 60.0  # seconds; sbatch may time out and the job be there all the same
NO_FAULT = frozenset({"CANCELLED", "PREEMPTED"})  # ends of jobs that say nothing about the profile


class Keepable(Protocol):
    """What the keeper needs of a cluster."""

    def asked(self) -> Mapping[str, str | None]:
        """Job id of each worker that was asked for, by name; None where sbatch refused it."""
        ...

    def connected(self) -> set[str]:
        """Names of those whose worker is connected."""
        ...

    def submitted(self) -> Collection[str | None]:
        """Ids of jobs that sbatch has taken and that are still wanted, those of a round that isn't over included."""
        ...

    def last_words(self, job: str) -> str:
        """The end of the job's log."""
        ...

    async def queue(self) -> dict[str, QueuedJob]:
        """Living jobs, as squeue lists them; CommandFailed when it can't say."""
        ...

    async def ended(self) -> dict[str, QueuedJob]:
        """Jobs that ended some minutes ago at most, as far as SLURM still knows them; CommandFailed as above."""
        ...

    async def replace(self, names: list[str]) -> None:
        """Forget the jobs under these names and submit others."""
        ...

    async def cancel(self, job: str) -> None:
        """Cancel a job."""
        ...


@dataclass
class Watch:
    """What is remembered of one job."""

    job: str | None
    joined: bool = False
    missing_since: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What to do about one job.

    Parameters
    ----------
    name : str
        The worker's.
    job : str or None
        Its job; None where sbatch refused it.
    why : {"rejected", "gone", "stuck", "silent"}
        Refused; not in the queue any more; running, but its worker left or froze; running, and no worker ever came.
    joined : bool
        Whether its worker was ever connected.
    """

    name: str
    job: str | None
    why: str
    joined: bool

    @property
    def cancel(self) -> bool:
        """Whether the job is still there and has to go first."""
        return self.why in ("stuck", "silent")


def judge(
    asked: Mapping[str, str | None],
    connected: set[str],
    queue: Mapping[str, QueuedJob],
    watches: dict[str, Watch],
    now: float,
    *,
    startup: float,
    grace: float,
) -> list[Verdict]:
    """Find the jobs that need replacing, and update `watches`.

    Parameters
    ----------
    asked, connected
        See `Keepable`; `asked` must have been taken before `queue`, or a job submitted in between looks lost.
    queue : mapping of str to QueuedJob
        Living jobs by id.
    watches : dict of str to Watch
        Memory between calls, by worker name.
    now : float
        Seconds of any clock that doesn't jump.
    startup : float
        Seconds that a running job has until its worker must have connected.
    grace : float
        Seconds that a worker which was connected may be away (its nanny restarts it).
    """
    for name in set(watches) - set(asked):
        del watches[name]
    verdicts = []
    for name, job in asked.items():
        watch = watches.get(name)
        if watch is None or watch.job != job:
            watch = watches[name] = Watch(job)
        if name in connected:
            watch.joined, watch.missing_since = True, None
            continue
        listed = queue.get(job) if job else None
        if listed is None:
            verdicts.append(Verdict(name, job, "gone" if job else "rejected", watch.joined))
        elif listed.state == "RUNNING":
            watch.missing_since = now if watch.missing_since is None else watch.missing_since
            if now - watch.missing_since > (grace if watch.joined else startup):
                verdicts.append(Verdict(name, job, "stuck" if watch.joined else "silent", watch.joined))
        else:
            watch.missing_since = None
    return verdicts


@dataclass
class Usage:
    """Time that a job has run, as squeue said last."""

    job: str
    nodes: str
    seconds: int


@dataclass
class Keeper:
    """Watches over a cluster's jobs.

    Parameters
    ----------
    cluster : Keepable
        Whose jobs.
    startup, grace : float
        See `judge`.
    give_up_after : int
        Rounds in a row, longer and longer apart, in which jobs end, or stay silent, before their worker connected;
        `failure` is set then, unless other workers are there.
    interval : float
        Seconds between two looks.
    clock : callable
        Monotonic seconds.
    """

    cluster: Keepable
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
    usage: dict[str, Usage] = field(default_factory=dict)
    replaced: int = 0
    on_hold: str = ""  # why jobs that end aren't replaced for now
    _watches: dict[str, Watch] = field(default_factory=dict)
    _early: int = 0  # rounds in a row in which jobs ended, by no one's wish, before their worker came
    _setbacks: int = 0  # the same, and rounds with rejections and with jobs that somebody cancelled
    _not_before: float = 0
    _orphans: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Look, for ever; ends by cancellation."""
        while True:
            try:
                await self.step()
            except Exception as error:  # a keeper that dies leaves its run to starve; say it and go on
                self.report(f"keeper: {type(error).__name__}: {error}")
            await self.sleep(self.interval)

    async def step(self) -> None:
        """Look once."""
        asked = dict(self.cluster.asked())
        try:
            queue = await self.cluster.queue()
        except CommandFailed as error:
            self.report(f"squeue fails, waiting: {error}")
            return
        now = self.clock()
        self.listed, self.listed_at = queue, now
        for job in queue.values():
            if job.seconds:
                self.usage[job.id] = Usage(job.id, job.nodes, job.seconds)
        connected = self.cluster.connected()
        before = {name for name, watch in self._watches.items() if watch.joined}
        verdicts = judge(asked, connected, queue, self._watches, now, startup=self.startup, grace=self.grace)
        if {name for name, watch in self._watches.items() if watch.joined} - before:
            self._early = self._setbacks = 0  # a worker came: the way is open
            self._not_before = 0
        await self._cancel_orphans(asked, now)
        if verdicts and self.on_hold:
            self.report(f"jobs that end aren't replaced: {self.on_hold}")
        elif verdicts and now >= self._not_before:
            await self._act(verdicts, now)

    async def _act(self, verdicts: list[Verdict], now: float) -> None:
        fates = await self._fates(verdicts)
        setback = [v for v in verdicts if not v.joined]
        early = [v for v in setback if v.job and (v.job not in fates or fates[v.job].state not in NO_FAULT)]
        for verdict in verdicts:
            if verdict.why != "rejected":  # reported when it happened
                self.report(self._words(verdict, fates.get(verdict.job or "")))
            if verdict.cancel and verdict.job:
                await self.cluster.cancel(verdict.job)
        self._early += bool(early)
        if early and self._early >= self.give_up_after and not self.cluster.connected():
            job = early[-1].job or ""
            self.failure = self.failure or ClusterError(
                "A job starts a worker that connects to the scheduler.",
                f"{self._early} times in a row none did; job {job}{_fate(fates.get(job))} said: "
                f"{self.cluster.last_words(job)}",
                "Check prologue, python and interface in the profile with `xycd plan` and `xycd check`.",
            )
            return
        if setback:
            # The first is tried again at once, the next ones later and later.
            self._not_before = now + min(LONGEST_DELAY, FIRST_DELAY * 2.0**self._setbacks)
            self._setbacks += 1
        self.replaced += len(verdicts)
        await self.cluster.replace([verdict.name for verdict in verdicts])

    async def _fates(self, verdicts: list[Verdict]) -> dict[str, QueuedJob]:
        """How jobs ended that are gone and whose worker never came, as far as SLURM knows."""
        if not any(v.why == "gone" and not v.joined for v in verdicts):
            return {}
        try:
            return await self.cluster.ended()
        except CommandFailed:
            return {}

    def _words(self, verdict: Verdict, fate: QueuedJob | None) -> str:
        if verdict.why == "silent":
            return f"job {verdict.job} runs, but no worker came within {self.startup:.0f} s; replaced"
        if verdict.why == "stuck":
            return f"job {verdict.job} runs, but its worker is gone; replaced"
        if verdict.joined or (fate is not None and fate.state in NO_FAULT):
            return f"job {verdict.job} is gone{_fate(fate)}; replaced"
        words = self.cluster.last_words(verdict.job or "")
        return f"job {verdict.job} ended before its worker came{_fate(fate)}: {words}"

    async def _cancel_orphans(self, asked: Mapping[str, str | None], now: float) -> None:
        """Cancel jobs under our name that nobody asked for any more."""
        known = {*asked.values(), *self.cluster.submitted()}
        self._orphans = {job: self._orphans.get(job, now) for job in self.listed if job not in known}
        for job, since in list(self._orphans.items()):
            if now - since > ORPHAN_AFTER:
                self.report(f"job {job} belongs to no worker; cancelled")
                await self.cluster.cancel(job)
                del self._orphans[job]

    def report(self, text: str) -> None:
        """Note a problem for the status; where it is the last one again, only its time changes."""
        if self.problems and self.problems[-1][1] == text:
            self.problems.pop()
        self.problems.append((self.wall_clock(), text))


def _fate(job: QueuedJob | None) -> str:
    """How a job ended, in brackets: its state, and the reason where SLURM gives one for that."""
    if job is None:
        return ""
    told = job.state not in NO_FAULT and job.reason not in ("", "None")  # else it is why the job was waiting before
    return f" ({job.state}, {job.reason})" if told else f" ({job.state})"
