"""The real command with the embedded models on a real SLURM: to the bit what one machine makes, whatever happens.

Each fault is injected while the workers that it is to hit are within a partition each (`tests.slurm.held`), so that
what it may cost is known exactly.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from cluster.control import read_status
from etl import pipeline
from etl.config import load
from tests.slurm.boot import Slurm, output
from tests.slurm.waiting import until
from tests.slurm.whole import Run, check, node_of, processes_of, state_of, xycd

Make = Callable[..., Run]


def test_scaled_cancelled_refused_and_a_dead_node(slurm: Slurm, make: Make, reference: Path) -> None:
    run = make(workers=1)
    run.start()
    with run.hold(1):
        assert "MIN:MAX" in run.say("scale", "three")
        assert "3 jobs" in run.say("scale", 3)
        cancelled, dead, _ = run.wait_held(3)

        output("scontrol", "update", "PartitionName=gpu", "State=DRAIN")
        try:
            output("scancel", cancelled)
            until(lambda: "sbatch refuses" in run.problems(), 60, "for the refusal")
        finally:
            output("scontrol", "update", "PartitionName=gpu", "State=UP")
        run.wait_held(3, without=cancelled)

        node = node_of(dead)
        slurm.kill_node(node)
        try:
            run.wait_held(3, without=dead)
            until(lambda: node not in run.workers()["nodes"] and run.workers()["workers"] == 3)
            shown = run.say("status")
        finally:
            slurm.start_node(node)
    assert "frames" in shown
    assert "running 3" in shown
    run.wait()
    check(run, reference, again=2)


def test_slurmctld_crashes_and_a_worker_freezes(slurm: Slurm, make: Make, reference: Path) -> None:
    run = make(workers=2, worker_ttl=10)
    run.start()
    with run.hold(2) as jobs:
        slurm.kill_controller()
        try:
            until(lambda: "squeue fails" in run.problems(), 90, "for squeue to fail")
            before = len(run.finished())
        except BaseException:
            slurm.start_controller()
            raise
    try:
        until(lambda: len(run.finished()) >= before + 4, 60, "for partitions that finish all the same")
        with run.hold(2) as still:
            slurm.start_controller()
            until(lambda: (run.workers()["queue_age_s"] or 99) < 2, 90, "for squeue to answer again")
            assert set(still) == set(jobs), "a job was lost to the controller's crash"
            for pid in processes_of(next(iter(still))):  # nanny and worker: nobody is left to start another
                os.kill(pid, signal.SIGSTOP)
    finally:
        if not output("scontrol", "ping").count("UP"):
            slurm.start_controller()
    run.wait()
    check(run, reference, again=1)


def test_walltime_shorter_than_the_work(make: Make, reference: Path) -> None:
    """Workers leave in time, within what they do, and others take their place and their partitions."""
    run = make(workers=2, slurm={"walltime": "0:30"})
    run.start()
    with run.hold(2) as first:
        until(lambda: len(run.held()) == 2 and not set(run.held()) & set(first), 90, "for both to be replaced")
    run.wait()
    assert "TIMEOUT" not in {state_of(job) for job in first}
    # On a slow machine the rest takes so long that workers leave once more.
    jobs = len(list((run.workspace / "run" / "jobs").glob("*.log")))
    check(run, reference, again=range(2, jobs - 1))


def test_out_of_memory_and_out_of_time(make: Make, reference: Path) -> None:
    """SLURM itself ends a job: for its memory, and for its time, which an administrator cuts short here."""
    run = make(workers=2)
    run.start()
    with run.hold(2) as jobs:
        (run.folder / "hoard").touch()
        until(lambda: (run.folder / "hoard.taken").exists())
        until(lambda: set(run.held().items()) != set(jobs.items()) and len(run.held()) == 2, 90, "for another worker")

        late = max(run.held(), key=int)
        output("scontrol", "update", f"JobId={late}", "EndTime=now+2")
        until(lambda: state_of(late) == "TIMEOUT", 90, "for SLURM to end the job")
        run.wait_held(2, without=late)
    run.wait()
    assert f"job {late} is gone; replaced" in run.problems()
    check(run, reference, again=2)


def test_two_drivers_and_kill_9(make: Make, reference: Path) -> None:
    """The second is refused; the first is killed, and the same command goes on at once, its jobs still running."""
    run = make(workers=2)
    run.start()
    until(lambda: len(run.finished()) >= 6, 120, "for some partitions")
    with run.hold(2):
        second = xycd("run", "--config", run.config)
        assert second.returncode == 2
        assert "One run at a time" in second.stderr
        run.kill_9()
        assert read_status(run.workspace / "run").state == "lost"
        assert list(run.folder.rglob("key.pem")), "kill -9 leaves the key"
        finished = run.finished()
        before = [attempt["id"] for attempt in run.store.attempts()]
        run.start()
    run.wait()
    after = [attempt["id"] for attempt in run.store.attempts()]
    assert len(finished) >= 6
    assert all(after.count(partition) == before.count(partition) for partition in finished)
    check(run, reference, again=range(3))  # the orphaned workers may still have finished theirs


def test_detached_and_adaptive(make: Make, reference: Path) -> None:
    """The driver in a job of its own; as many workers as there is work for, none at its end."""
    run = make(minimum=0, maximum=3)
    (run.folder / "hold").touch()
    submitted = xycd("run", "--config", run.config, "--detach")
    assert "driver submitted as job" in submitted.stdout, submitted.stderr
    with run.hold(3) as jobs:
        driver = read_status(run.workspace / "run").driver.job
        assert driver is not None
        assert driver not in jobs
        assert run.workers()["adaptive"] == "0:3"
        assert "between 1 and 2 jobs" in run.say("scale", "1:2")
        until(lambda: run.workers()["adaptive"] == "1:2")
    until(lambda: read_status(run.workspace / "run").state == "ended", 120, "for the driver to end")
    until(lambda: state_of(driver) == "COMPLETED", 30)
    check(run, reference, again=0)


def test_check_before_the_night(make: Make) -> None:
    run = make(workers=1)
    pipeline.run(load(run.config), stages=("annotate",))
    text = xycd("check", "--config", run.config).stdout
    assert "frames/s a worker" in text
    assert "job " in text
    assert "scheduler at tls://" in text
