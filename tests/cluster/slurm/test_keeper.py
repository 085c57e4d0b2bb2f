"""The keeper's judgement, against a queue and a clock that tests move."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import pytest

from cluster.slurm.commands import CommandFailed, QueuedJob
from cluster.slurm.keeper import FIRST_DELAY, ORPHAN_AFTER, Keeper, Verdict, judge


class Cluster:
    """Jobs in memory. `replace` submits under a new id, or is refused while `refusing`."""

    def __init__(self, count: int) -> None:
        self.jobs: dict[str, str | None] = {}
        self.states: dict[str, QueuedJob] = {}
        self.live: set[str] = set()
        self.logs: dict[str, str] = {}
        self.fates: dict[str, QueuedJob] = {}
        self.under_way: set[str] = set()  # taken by sbatch in a round that isn't over
        self.cancelled: list[str] = []
        self.refusing = self.down = False
        self.next = 1
        self.now = 0.0
        for i in range(count):
            self.submit(f"w{i}")

    def submit(self, name: str) -> None:
        self.jobs[name] = None if self.refusing else str(self.next)
        if not self.refusing:
            self.states[str(self.next)] = QueuedJob(str(self.next), "PENDING")
            self.next += 1

    def run(self, name: str, connect: bool = True, seconds: int = 1) -> None:
        job = self.jobs[name] or ""
        self.states[job] = QueuedJob(job, "RUNNING", seconds, "n1")
        self.logs[job] = "words"
        if connect:
            self.live.add(name)

    def end(self, name: str, state: str = "", reason: str = "None") -> None:
        job = self.jobs[name] or ""
        if self.states.pop(job, None) and state:
            self.fates[job] = QueuedJob(job, state, reason=reason)
        self.live.discard(name)

    def asked(self) -> Mapping[str, str | None]:
        return self.jobs

    def connected(self) -> set[str]:
        return self.live

    def submitted(self) -> set[str | None]:
        return {*self.jobs.values(), *self.under_way}

    def last_words(self, job: str) -> str:
        return self.logs.get(job, "")

    async def queue(self) -> dict[str, QueuedJob]:
        if self.down:
            raise CommandFailed("slurm_load_jobs error: Unable to contact slurm controller")
        return dict(self.states)

    async def ended(self) -> dict[str, QueuedJob]:
        return dict(self.fates)

    async def replace(self, names: list[str]) -> None:
        for name in names:
            self.submit(name)

    async def cancel(self, job: str) -> None:
        self.cancelled.append(job)
        self.states.pop(job, None)


def keeper_of(cluster: Cluster, **options: float) -> Keeper:
    return Keeper(cluster, clock=lambda: cluster.now, **options)  # type: ignore[arg-type]


def step(keeper: Keeper, cluster: Cluster, seconds: float = 0) -> None:
    cluster.now += seconds
    asyncio.run(keeper.step())


def test_healthy_jobs_are_left_alone() -> None:
    cluster = Cluster(3)
    keeper = keeper_of(cluster)
    step(keeper, cluster)
    cluster.run("w0")
    cluster.run("w1", connect=False)
    step(keeper, cluster, 5)
    assert cluster.next == 4
    assert not cluster.cancelled
    assert not keeper.problems


def test_lost_jobs_are_replaced() -> None:
    cluster = Cluster(2)
    keeper = keeper_of(cluster)
    cluster.run("w0")
    cluster.run("w1")
    step(keeper, cluster)
    cluster.end("w0")
    step(keeper, cluster, 5)
    assert cluster.jobs == {"w0": "3", "w1": "2"}
    assert keeper.replaced == 1


def test_on_hold_nothing_is_replaced_until_it_ends() -> None:
    cluster = Cluster(2)
    keeper = keeper_of(cluster, give_up_after=2)
    cluster.run("w0")
    step(keeper, cluster)
    keeper.on_hold = "the run waits for space"
    cluster.end("w0")
    cluster.end("w1")
    for _ in range(20):
        step(keeper, cluster, 600)
    assert (cluster.jobs, keeper.replaced, keeper.failure) == ({"w0": "1", "w1": "2"}, 0, None)
    assert [text for _, text in keeper.problems] == ["jobs that end aren't replaced: the run waits for space"]
    keeper.on_hold = ""
    step(keeper, cluster, 5)
    assert cluster.jobs == {"w0": "3", "w1": "4"}
    assert keeper.failure is None


def test_a_pending_job_that_is_cancelled_is_no_failure() -> None:
    """It is replaced at once, but who cancels each that comes isn't sent ever more of them."""
    cluster = Cluster(1)
    keeper = keeper_of(cluster, give_up_after=1)
    step(keeper, cluster)
    cluster.end("w0", "CANCELLED", "Priority")
    step(keeper, cluster, 1)
    assert cluster.jobs["w0"] == "2"
    assert keeper.problems[-1][1] == "job 1 is gone (CANCELLED); replaced"
    for _ in range(1000):
        step(keeper, cluster, 1)
        cluster.end("w0", "CANCELLED")
    assert keeper.failure is None
    assert cluster.next < 12


@pytest.mark.parametrize("known", [True, False])
def test_jobs_that_vanish_without_a_log_end_the_run(known: bool) -> None:
    """They never ran as far as squeue or their log could tell: their output can't be written, say."""
    cluster = Cluster(1)
    keeper = keeper_of(cluster, give_up_after=3)
    for _ in range(1000):
        cluster.end("w0", "FAILED" if known else "", "NonZeroExitCode")
        step(keeper, cluster, 1)
    assert keeper.failure is not None
    assert ("(FAILED, NonZeroExitCode)" in keeper.failure.found) is known
    assert cluster.next - 1 == 3


def test_nothing_is_judged_while_squeue_fails() -> None:
    cluster = Cluster(2)
    keeper = keeper_of(cluster)
    cluster.run("w0")
    step(keeper, cluster)
    cluster.end("w0")
    cluster.down = True
    for _ in range(10):
        step(keeper, cluster, 600)
    assert cluster.jobs == {"w0": "1", "w1": "2"}
    assert [text for _, text in keeper.problems] == [
        "squeue fails, waiting: slurm_load_jobs error: Unable to contact slurm controller"
    ]
    cluster.down = False
    step(keeper, cluster, 5)
    assert cluster.jobs == {"w0": "3", "w1": "2"}


def test_worker_that_left_a_running_job() -> None:
    """Its nanny gets `grace` seconds to restart it; then the job is cancelled, then replaced."""
    cluster = Cluster(1)
    keeper = keeper_of(cluster, grace=30)
    cluster.run("w0")
    step(keeper, cluster)
    cluster.live.clear()
    step(keeper, cluster, 5)
    step(keeper, cluster, 29)
    assert not cluster.cancelled
    cluster.live.add("w0")  # back in time
    step(keeper, cluster, 5)
    cluster.live.clear()
    step(keeper, cluster, 5)
    step(keeper, cluster, 31)
    assert cluster.cancelled == ["1"]
    assert cluster.jobs == {"w0": "2"}


def test_worker_that_never_comes() -> None:
    cluster = Cluster(1)
    keeper = keeper_of(cluster, startup=600)
    cluster.run("w0", connect=False)
    step(keeper, cluster)
    step(keeper, cluster, 599)
    assert not cluster.cancelled
    step(keeper, cluster, 2)
    assert cluster.cancelled == ["1"]
    assert "no worker came" in keeper.problems[-1][1]


def test_a_long_wait_in_the_queue_is_not_start_up_time() -> None:
    cluster = Cluster(1)
    keeper = keeper_of(cluster, startup=600)
    step(keeper, cluster)
    step(keeper, cluster, 86400)
    cluster.run("w0", connect=False)
    step(keeper, cluster, 5)
    step(keeper, cluster, 300)
    assert not cluster.cancelled


def test_later_rejections_back_off_and_heal() -> None:
    cluster = Cluster(1)
    keeper = keeper_of(cluster, give_up_after=3)
    cluster.run("w0")
    step(keeper, cluster)
    cluster.end("w0")
    cluster.refusing = True
    tries: list[float] = []
    submit = cluster.submit
    cluster.submit = lambda name: (tries.append(cluster.now), submit(name))[1]  # type: ignore[method-assign, func-returns-value]
    for _ in range(1000):
        step(keeper, cluster, 1)
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps[1:5] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert len(tries) < 12
    assert keeper.failure is None  # a closed partition opens again some day
    cluster.refusing = False
    for _ in range(301):
        step(keeper, cluster, 1)
    assert cluster.jobs["w0"] is not None
    cluster.run("w0")
    step(keeper, cluster, 1)
    cluster.end("w0")
    step(keeper, cluster, 1)
    step(keeper, cluster, 1)
    assert cluster.states, "after a worker has come, a loss is replaced at once again"


def test_jobs_that_cannot_start_a_worker_end_the_run() -> None:
    cluster = Cluster(2)
    keeper = keeper_of(cluster, give_up_after=3)
    for _ in range(200):
        for name, job in list(cluster.jobs.items()):
            if job in cluster.states:
                cluster.run(name, connect=False)
                cluster.logs[job or ""] = "conda: command not found"
                cluster.end(name)
        step(keeper, cluster, 1)
        if keeper.failure:
            break
    assert keeper.failure is not None
    assert "3 times" in keeper.failure.found
    assert "conda: command not found" in keeper.failure.found
    assert cluster.next - 1 == 2 * 3  # three rounds of two jobs, no more


def test_one_bad_node_does_not_end_a_run_that_goes_on_elsewhere() -> None:
    cluster = Cluster(2)
    keeper = keeper_of(cluster, give_up_after=2)
    cluster.run("w1")
    step(keeper, cluster)
    for _ in range(2000):
        if cluster.jobs["w0"] in cluster.states:
            cluster.run("w0", connect=False)
            cluster.end("w0")
        step(keeper, cluster, 1)
    assert keeper.failure is None
    assert cluster.next < 20


def test_orphans_are_cancelled() -> None:
    """A job that sbatch made but whose number it didn't live to tell."""
    cluster = Cluster(1)
    keeper = keeper_of(cluster)
    cluster.states["77"] = QueuedJob("77", "PENDING")
    step(keeper, cluster)
    step(keeper, cluster, ORPHAN_AFTER - 1)
    assert not cluster.cancelled
    step(keeper, cluster, 2)
    assert cluster.cancelled == ["77"]


def test_jobs_of_a_round_that_is_not_over_are_no_orphans() -> None:
    """The cluster lists them when all its calls of sbatch have returned, and those may take minutes."""
    cluster = Cluster(1)
    keeper = keeper_of(cluster)
    cluster.states["77"] = QueuedJob("77", "RUNNING", 1, "n1")
    cluster.under_way.add("77")
    step(keeper, cluster)
    step(keeper, cluster, 10 * ORPHAN_AFTER)
    assert not cluster.cancelled


def test_scaled_down_jobs_are_forgotten() -> None:
    cluster = Cluster(2)
    keeper = keeper_of(cluster)
    cluster.run("w0")
    cluster.run("w1")
    step(keeper, cluster)
    cluster.end("w1")
    del cluster.jobs["w1"]
    step(keeper, cluster, 5)
    assert cluster.jobs == {"w0": "1"}
    assert cluster.next == 3


def test_usage_is_kept_after_the_end() -> None:
    cluster = Cluster(1)
    keeper = keeper_of(cluster)
    cluster.run("w0", seconds=100)
    step(keeper, cluster)
    cluster.run("w0", seconds=3600)
    step(keeper, cluster)
    cluster.end("w0")
    step(keeper, cluster)
    assert keeper.usage["1"].seconds == 3600
    assert keeper.usage["1"].nodes == "n1"


def test_a_fault_of_the_keeper_is_reported_and_survived() -> None:
    cluster = Cluster(1)

    async def broken() -> dict[str, QueuedJob]:
        raise ValueError("odd output")

    cluster.queue = broken  # type: ignore[method-assign]
    keeper = keeper_of(cluster)
    rounds = 0

    async def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise asyncio.CancelledError

    keeper.sleep = sleep
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keeper.run())
    assert keeper.problems[-1][1] == "keeper: ValueError: odd output"


def test_judge_needs_the_order_of_looks() -> None:
    """A job asked for before squeue was called but not listed is gone; a rejected one is told apart."""
    verdicts = judge({"a": "1", "b": None}, set(), {}, {}, 0.0, startup=1, grace=1)
    assert verdicts == [Verdict("a", "1", "gone", False), Verdict("b", None, "rejected", False)]
    assert not any(verdict.cancel for verdict in verdicts)
