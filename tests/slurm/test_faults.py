"""What clusters do to jobs. Each run ends as an undisturbed one: same results, nothing finished run twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
from distributed import Client

import cluster
from cluster.config import ClusterConfig
from tests.slurm import tasks
from tests.slurm.boot import Slurm, output
from tests.slurm.driver import drive
from tests.slurm.waiting import until
from tests.slurm.whole import state_of

Make = Callable[..., ClusterConfig]


def once(at: int, fault: Callable[[], None]) -> Callable[[int], bool]:
    """Call `fault` when `at` partitions are done."""
    pending = [fault]

    def each(finished: int) -> bool:
        if finished >= at and pending:
            pending.pop()()
        return False

    return each


def check(base: Path, count: int, again: int) -> None:
    """All results are there and right; at most `again` partitions were begun more than once."""
    assert tasks.done(base) == set(range(count))
    for number in range(count):
        assert (base / "results" / str(number)).read_bytes() == tasks.content(number)
    repeated = {number: times for number, times in tasks.executions(base).items() if times > 1}
    assert len(repeated) <= again, repeated


def connected(workers: object) -> int:
    return int(cluster.workers_summary(workers)["workers"])  # type: ignore[arg-type]


def test_scancel_and_a_dead_node(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    base = tmp_path / "work"
    with cluster.start(config(3), folder=tmp_path / "run") as workers:
        until(lambda: connected(workers) == 3)
        drive(workers, base, 30, 0.3, each=once(4, lambda: output("scancel", next(iter(workers.jobs)))))  # type: ignore[func-returns-value, attr-defined]
        check(base, 30, again=1)
        until(lambda: connected(workers) == 3)

        node = next(iter(cluster.workers_summary(workers)["nodes"]))
        try:
            drive(workers, base, 60, 0.3, each=once(4, lambda: slurm.kill_node(node)))
            check(base, 60, again=2)
            until(lambda: connected(workers) == 3, 90)
            assert node not in cluster.workers_summary(workers)["nodes"]
        finally:
            slurm.start_node(node)


def test_killed_workers(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """The nanny starts another worker; the job stays."""
    base = tmp_path / "work"
    with cluster.start(config(2), folder=tmp_path / "run") as workers:
        until(lambda: connected(workers) == 2)
        jobs = set(workers.jobs)  # type: ignore[attr-defined]
        drive(workers, base, 12, 0.1, tasks.suicidal)
        check(base, 12, again=3)
        assert set(workers.jobs) == jobs  # type: ignore[attr-defined]


def test_a_frozen_worker(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """It says nothing any more, its job runs on: dropped, cancelled, replaced."""
    base = tmp_path / "work"
    with cluster.start(config(2, worker_ttl=5, startup=60), folder=tmp_path / "run") as workers:
        workers.supervisor.grace = 5.0  # type: ignore[attr-defined]
        until(lambda: connected(workers) == 2)
        jobs = set(workers.jobs)  # type: ignore[attr-defined]
        drive(workers, base, 12, 0.1, tasks.freezing)
        check(base, 12, again=1)
        until(lambda: connected(workers) == 2)
        assert len(set(workers.jobs) - jobs) == 1  # type: ignore[attr-defined]


def test_walltime_shorter_than_the_work(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """Workers leave after some 20 s, before SLURM ends their jobs, and are replaced.

    (A job that SLURM does end for its time is in test_whole_way.)
    """
    base = tmp_path / "work"
    with cluster.start(config(2, walltime="0:30"), folder=tmp_path / "run") as workers:
        drive(workers, base, 140, 0.5)
        check(base, 140, again=8)
        assert workers.supervisor.replaced >= 2  # type: ignore[attr-defined]
        seen, living = set(workers.supervisor.usage), set(workers.jobs)  # type: ignore[attr-defined]
        ended = {job: state_of(job) for job in seen - living}
        assert len(ended) >= 2
        # A worker that is slow to let go of its last partition is cancelled.
        assert set(ended.values()) <= {"COMPLETED", "COMPLETING", "CANCELLED"}, ended
        assert not [text for _, text in workers.supervisor.problems if "ended before" in text]  # type: ignore[attr-defined]


def test_out_of_memory(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    base = tmp_path / "work"
    with cluster.start(config(2, memory="500M"), folder=tmp_path / "run") as workers:
        drive(workers, base, 10, 0.1, tasks.hungry)
        check(base, 10, again=2)


def test_slurmctld_crashes(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """Nothing is judged while it is away; no job is lost to it."""
    base = tmp_path / "work"
    with cluster.start(config(2), folder=tmp_path / "run") as workers:
        until(lambda: connected(workers) == 2)
        jobs = set(workers.jobs)  # type: ignore[attr-defined]
        slurm.kill_controller()
        try:
            until(lambda: any("squeue fails" in text for _, text in workers.supervisor.problems), 90)  # type: ignore[attr-defined]
            drive(workers, base, 20, 0.2)
            check(base, 20, again=0)
        finally:
            slurm.start_controller()
        until(lambda: (workers.summary()["queue_age_s"] or 99) < 2, 90)  # type: ignore[attr-defined]
        assert set(workers.jobs) == jobs  # type: ignore[attr-defined]
        drive(workers, base, 30, 0.2)
        check(base, 30, again=0)


def test_the_nanny_dies_with_its_worker(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """All processes of a job killed at once, as the kernel does when a node runs out of memory."""
    base = tmp_path / "work"
    with cluster.start(config(2), folder=tmp_path / "run") as workers, Client(workers) as client:
        client.wait_for_workers(2, timeout=60)
        pid = int(str(next(iter(client.run(tasks.node).values()))["pid"]))

        def kill() -> None:
            nanny = psutil.Process(pid).ppid()
            os.kill(nanny, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)

        drive(workers, base, 20, 0.2, each=once(4, kill))
        check(base, 20, again=1)
        until(lambda: connected(workers) == 2)
