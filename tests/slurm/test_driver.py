"""The real command and those who watch it: signals, terminals, other shells, drivers in jobs of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from cluster.control import read_status
from tests.slurm.boot import Slurm, output
from tests.slurm.waiting import until
from tests.slurm.whole import Run, check, xycd

Make = Callable[..., Run]


def jobs() -> int:
    return len(output("squeue", "-h", "-t", "RUNNING,PENDING").splitlines())


def ended(run: Run) -> int:
    """Exit status of the command, once it has left with all that it had."""
    assert run.process is not None
    status = run.process.wait(timeout=120)
    assert read_status(run.workspace / "run").state == "ended", run.log
    assert not list(run.folder.rglob("*.pem"))
    return status


def interrupt(run: Run) -> None:
    """Ctrl-C, which a terminal sends to all processes of the command."""
    assert run.process is not None
    os.killpg(run.process.pid, signal.SIGINT)


def test_ctrl_c_twice_and_once(make: Make, reference: Path) -> None:
    """Twice leaves at once; once finishes what is running; the same command goes on."""
    run = make(workers=2)
    run.start()
    with run.hold(2):
        interrupt(run)
        until(lambda: run.status().get("stopping"), 30, "for the first to be heard")
        assert run.process is not None
        assert run.process.poll() is None
        interrupt(run)
        assert ended(run) == 130, run.log
        assert not run.finished()
        until(lambda: jobs() == 0)
        until(lambda: not run.held(), 30, "for the jobs' processes")

        run.start()
        run.wait_held(2)
        interrupt(run)
        until(lambda: run.status().get("stopping"), 30, "for it to be heard")
    assert ended(run) == 1, run.log
    assert len(run.finished()) == 2
    assert "stopped before the end" in run.log
    assert not list((run.workspace / "training").glob("*_xycd_*"))

    run.start()
    run.wait()
    check(run, reference, again=2)


def test_a_closed_terminal_scale_stop_and_stop_now(make: Make, reference: Path) -> None:
    """The run outlives its terminal; other shells scale it down, stop it, and lose patience."""
    run = make(workers=2)
    terminal = run.start_in_terminal()
    with run.hold(2):
        os.close(terminal)
        assert "1 job" in run.say("scale", 1)
        until(lambda: run.workers().get("jobs") == {"running": 1}, 60, "for the other to go")
        until(lambda: len(run.held()) == 1, 30, "for its processes")
        assert "finishing what is running" in run.say("stop")
        until(lambda: run.status().get("stopping"), 30)
        assert "stopping" in run.say("status")
        assert "finishing" in run.say("stop", "--now")
        assert ended(run) == 130
    assert "scaled to 1 job" in (run.workspace / "run" / "driver.log").read_text()
    run.start()
    run.wait()
    check(run, reference, again=2)


def test_a_worker_lost_after_a_stop_is_not_waited_for(make: Make, reference: Path) -> None:
    """No job is submitted in its place, and its partition is left to do."""
    run = make(workers=2)
    run.start()
    with run.hold(2) as held:
        run.say("stop")
        until(lambda: run.status().get("stopping"), 30)
        output("scancel", *held)
        assert ended(run) == 1, run.log
        assert run.workers()["replaced"] == 0
    assert not run.finished()
    run.start()
    run.wait()
    check(run, reference, again=2)


def test_rejected_at_first(make: Make) -> None:
    run = make(workers=2, slurm={"partition": "nowhere"})
    run.start()
    assert ended(run) == 2
    assert "invalid partition specified: nowhere" in run.log
    assert "Traceback" not in run.log


def detach(run: Run) -> str:
    """Submit the driver; its job."""
    done = xycd("run", "--config", run.config, "--detach")
    assert "driver submitted as job" in done.stdout, done.stderr
    return done.stdout.split("job ")[1].split(";")[0]


def test_detached_and_cancelled(make: Make) -> None:
    """Scancel of the driver's job takes its workers' jobs and keys with it; its logs are found, wherever they lie."""
    run = make(workers=1, slurm={"folder": "elsewhere"})
    job = detach(run)
    with run.hold(1) as held:
        assert read_status(run.workspace / "run").driver.job == job
        until(lambda: run.workers().get("workers") == 1, 30, "for the status")
        assert "-J " in run.workers()["tunnel"]
        assert {line.split()[0] for line in run.say("logs").splitlines()} == {job, *held}
        output("scancel", job)
        until(lambda: jobs() == 0)
        until(lambda: not read_status(run.workspace / "run").alive)


def test_a_detached_driver_that_waits(make: Make) -> None:
    run = make(workers=1, slurm={"driver": {"cpus": 1, "memory": "1G", "directives": ["--begin=now+600"]}})
    job = detach(run)
    until(lambda: f"job {job}, pending (BeginTime)" in run.say("status"), 30, "for the reason")
    again = xycd("run", "--config", run.config, "--detach")
    assert again.returncode == 2
    assert "Only one driver" in again.stderr
    assert f"job {job}" in run.say("stop")
    until(lambda: jobs() == 0)


def test_a_second_driver_is_told_of_the_first(slurm: Slurm, make: Make) -> None:
    """While the first, killed, has left jobs that wait, keys and a note."""
    run = make(workers=6)  # more than there are nodes: some wait
    run.start()
    with run.hold(4):
        until(lambda: run.workers().get("jobs", {}).get("pending") == 2)
        run.kill_9()
        assert read_status(run.workspace / "run").state == "lost"
        assert list(run.folder.rglob("key.pem")), "kill -9 leaves the key"
        before = set(output("squeue", "-h", "-o", "%i").split())
        run.start()
        until(lambda: run.workers().get("run") and not before & set(output("squeue", "-h", "-o", "%i").split()))
        assert len(list(run.folder.rglob("key.pem"))) == 1
        subprocess.run(["kill", "-TERM", str(run.process.pid if run.process else 0)], check=True)
        assert ended(run) == 143
