"""The supervisor's decisions, against a queue and a clock that tests move."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import pytest

from cluster.slurm.commands import CommandFailed, QueuedJob
from cluster.slurm.supervisor import FIRST_DELAY, ORPHAN_AFTER, LostJob, Supervisor, find_lost_jobs


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

    def requested_jobs(self) -> Mapping[str, str | None]:
        return self.jobs

    def connected(self) -> set[str]:
        return self.live

    def submitted(self) -> set[str | None]:
        return {*self.jobs.values(), *self.under_way}

    def log_end(self, job: str) -> str:
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


def supervisor_of(cluster: Cluster, **options: float) -> Supervisor:
    return Supervisor(cluster, clock=lambda: cluster.now, **options)  # type: ignore[arg-type]


def step(supervisor: Supervisor, cluster: Cluster, seconds: float = 0) -> None:
    cluster.now += seconds
    asyncio.run(supervisor.step())


def test_healthy_jobs_are_left_alone() -> None:
    cluster = Cluster(3)
    supervisor = supervisor_of(cluster)
    step(supervisor, cluster)
    cluster.run("w0")
    cluster.run("w1", connect=False)
    step(supervisor, cluster, 5)
    assert cluster.next == 4
    assert not cluster.cancelled
    assert not supervisor.problems


def test_lost_jobs_are_replaced() -> None:
    cluster = Cluster(2)
    supervisor = supervisor_of(cluster)
    cluster.run("w0")
    cluster.run("w1")
    step(supervisor, cluster)
    cluster.end("w0")
    step(supervisor, cluster, 5)
    assert cluster.jobs == {"w0": "3", "w1": "2"}
    assert supervisor.replaced == 1


def test_on_hold_nothing_is_replaced_until_it_ends() -> None:
    cluster = Cluster(2)
    supervisor = supervisor_of(cluster, give_up_after=2)
    cluster.run("w0")
    step(supervisor, cluster)
    supervisor.on_hold = "the run is stopping"
    cluster.end("w0")
    cluster.end("w1")
    for _ in range(20):
        step(supervisor, cluster, 600)
    assert (cluster.jobs, supervisor.replaced, supervisor.failure) == ({"w0": "1", "w1": "2"}, 0, None)
    assert [text for _, text in supervisor.problems] == ["jobs that end aren't replaced: the run is stopping"]
    supervisor.on_hold = ""
    step(supervisor, cluster, 5)
    assert cluster.jobs == {"w0": "3", "w1": "4"}
    assert supervisor.failure is None


def test_a_pending_job_that_is_cancelled_is_no_failure() -> None:
    """It is replaced at once. If somebody cancels each replacement, the delays grow."""
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, give_up_after=1)
    step(supervisor, cluster)
    cluster.end("w0", "CANCELLED", "Priority")
    step(supervisor, cluster, 1)
    assert cluster.jobs["w0"] == "2"
    assert supervisor.problems[-1][1] == "job 1 is gone (CANCELLED); replaced"
    for _ in range(1000):
        step(supervisor, cluster, 1)
        cluster.end("w0", "CANCELLED")
    assert supervisor.failure is None
    assert cluster.next < 12


@pytest.mark.parametrize("known", [True, False])
def test_jobs_that_vanish_without_a_log_end_the_run(known: bool) -> None:
    """Neither squeue nor a log ever showed them, for example because their output can't be written."""
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, give_up_after=3)
    for _ in range(1000):
        cluster.end("w0", "FAILED" if known else "", "NonZeroExitCode")
        step(supervisor, cluster, 1)
    assert supervisor.failure is not None
    assert ("(FAILED, NonZeroExitCode)" in supervisor.failure.found) is known
    assert cluster.next - 1 == 3


def test_nothing_is_judged_while_squeue_fails() -> None:
    cluster = Cluster(2)
    supervisor = supervisor_of(cluster)
    cluster.run("w0")
    step(supervisor, cluster)
    cluster.end("w0")
    cluster.down = True
    for _ in range(10):
        step(supervisor, cluster, 600)
    assert cluster.jobs == {"w0": "1", "w1": "2"}
    assert [text for _, text in supervisor.problems] == [
        "squeue fails, waiting: slurm_load_jobs error: Unable to contact slurm controller"
    ]
    cluster.down = False
    step(supervisor, cluster, 5)
    assert cluster.jobs == {"w0": "3", "w1": "2"}


def test_worker_that_left_a_running_job() -> None:
    """Its nanny has `grace` seconds to restart it; then the job is cancelled and replaced."""
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, grace=30)
    cluster.run("w0")
    step(supervisor, cluster)
    cluster.live.clear()
    step(supervisor, cluster, 5)
    step(supervisor, cluster, 29)
    assert not cluster.cancelled
    cluster.live.add("w0")  # back in time
    step(supervisor, cluster, 5)
    cluster.live.clear()
    step(supervisor, cluster, 5)
    step(supervisor, cluster, 31)
    assert cluster.cancelled == ["1"]
    assert cluster.jobs == {"w0": "2"}


def test_worker_that_never_comes() -> None:
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, startup=600)
    cluster.run("w0", connect=False)
    step(supervisor, cluster)
    step(supervisor, cluster, 599)
    assert not cluster.cancelled
    step(supervisor, cluster, 2)
    assert cluster.cancelled == ["1"]
    assert "no worker connected" in supervisor.problems[-1][1]


def test_a_requeued_job_has_its_whole_start_up_time_again() -> None:
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, startup=600)
    cluster.run("w0", connect=False)
    step(supervisor, cluster)
    cluster.states["1"] = QueuedJob("1", "PENDING")
    step(supervisor, cluster, 500)
    cluster.run("w0", connect=False)
    step(supervisor, cluster, 500)
    step(supervisor, cluster, 599)
    assert not cluster.cancelled
    step(supervisor, cluster, 2)
    assert cluster.cancelled == ["1"]


def test_a_replacement_has_its_whole_start_up_time() -> None:
    """The previous job had a connected worker, but `grace` does not apply to the new job."""
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, startup=600, grace=30)
    cluster.run("w0")
    step(supervisor, cluster)
    cluster.end("w0")
    step(supervisor, cluster, 5)
    cluster.run("w0", connect=False)
    step(supervisor, cluster, 5)
    step(supervisor, cluster, 599)
    assert not cluster.cancelled
    step(supervisor, cluster, 2)
    assert cluster.cancelled == ["2"]


def test_a_long_wait_in_the_queue_is_not_start_up_time() -> None:
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, startup=600)
    step(supervisor, cluster)
    step(supervisor, cluster, 86400)
    cluster.run("w0", connect=False)
    step(supervisor, cluster, 5)
    step(supervisor, cluster, 300)
    assert not cluster.cancelled


def test_later_rejections_back_off_and_heal() -> None:
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster, give_up_after=3)
    cluster.run("w0")
    step(supervisor, cluster)
    cluster.end("w0")
    cluster.refusing = True
    tries: list[float] = []
    submit = cluster.submit
    cluster.submit = lambda name: (tries.append(cluster.now), submit(name))[1]  # type: ignore[method-assign, func-returns-value]
    for _ in range(1000):
        step(supervisor, cluster, 1)
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps[1:5] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert len(tries) < 12
    assert supervisor.failure is None  # a closed partition opens again some day
    cluster.refusing = False
    for _ in range(301):
        step(supervisor, cluster, 1)
    assert cluster.jobs["w0"] is not None
    cluster.run("w0")
    step(supervisor, cluster, 1)
    cluster.end("w0")
    step(supervisor, cluster, 1)
    step(supervisor, cluster, 1)
    assert cluster.states, "after a worker has come, a loss is replaced at once again"


def test_jobs_that_cannot_start_a_worker_end_the_run() -> None:
    cluster = Cluster(2)
    supervisor = supervisor_of(cluster, give_up_after=3)
    for _ in range(200):
        for name, job in list(cluster.jobs.items()):
            if job in cluster.states:
                cluster.run(name, connect=False)
                cluster.logs[job or ""] = "conda: command not found"
                cluster.end(name)
        step(supervisor, cluster, 1)
        if supervisor.failure:
            break
    assert supervisor.failure is not None
    assert "3 rounds" in supervisor.failure.found
    assert "conda: command not found" in supervisor.failure.found
    assert cluster.next - 1 == 2 * 3  # three rounds of two jobs, no more


def test_one_bad_node_does_not_end_a_run_that_goes_on_elsewhere() -> None:
    cluster = Cluster(2)
    supervisor = supervisor_of(cluster, give_up_after=2)
    cluster.run("w1")
    step(supervisor, cluster)
    for _ in range(2000):
        if cluster.jobs["w0"] in cluster.states:
            cluster.run("w0", connect=False)
            cluster.end("w0")
        step(supervisor, cluster, 1)
    assert supervisor.failure is None
    assert cluster.next < 20


def test_orphans_are_cancelled() -> None:
    """A job that sbatch submitted before it failed to report its id."""
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster)
    cluster.states["77"] = QueuedJob("77", "PENDING")
    step(supervisor, cluster)
    step(supervisor, cluster, ORPHAN_AFTER - 1)
    assert not cluster.cancelled
    step(supervisor, cluster, 2)
    assert cluster.cancelled == ["77"]


def test_jobs_of_a_round_that_is_not_over_are_no_orphans() -> None:
    """The cluster lists them once all its sbatch calls have returned, which may take minutes."""
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster)
    cluster.states["77"] = QueuedJob("77", "RUNNING", 1, "n1")
    cluster.under_way.add("77")
    step(supervisor, cluster)
    step(supervisor, cluster, 10 * ORPHAN_AFTER)
    assert not cluster.cancelled


def test_scaled_down_jobs_are_forgotten() -> None:
    cluster = Cluster(2)
    supervisor = supervisor_of(cluster)
    cluster.run("w0")
    cluster.run("w1")
    step(supervisor, cluster)
    cluster.end("w1")
    del cluster.jobs["w1"]
    step(supervisor, cluster, 5)
    assert cluster.jobs == {"w0": "1"}
    assert cluster.next == 3


def test_usage_is_kept_after_the_end() -> None:
    cluster = Cluster(1)
    supervisor = supervisor_of(cluster)
    cluster.run("w0", seconds=100)
    step(supervisor, cluster)
    cluster.run("w0", seconds=3600)
    step(supervisor, cluster)
    cluster.end("w0")
    step(supervisor, cluster)
    assert supervisor.usage["1"].seconds == 3600
    assert supervisor.usage["1"].nodes == "n1"


def test_a_fault_of_the_keeper_is_reported_and_survived() -> None:
    cluster = Cluster(1)

    async def broken() -> dict[str, QueuedJob]:
        raise ValueError("odd output")

    cluster.queue = broken  # type: ignore[method-assign]
    supervisor = supervisor_of(cluster)
    rounds = 0

    async def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise asyncio.CancelledError

    supervisor.sleep = sleep
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(supervisor.run())
    assert supervisor.problems[-1][1] == "supervisor: ValueError: odd output"


def test_a_lost_job_and_a_rejected_one_are_told_apart() -> None:
    """A requested job that squeue does not list is gone; one without an id was rejected."""
    lost = find_lost_jobs({"a": "1", "b": None}, set(), {}, {}, 0.0, startup=1, grace=1)
    assert lost == [LostJob("a", "1", "gone", False), LostJob("b", None, "rejected", False)]
    assert not any(job.running for job in lost)
