"""The driver itself: killed, stopped, doubled, detached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import control, detach, logs
from cluster.config import ClusterConfig
from cluster.errors import ClusterError, NoRun
from tests.slurm import tasks
from tests.slurm.boot import Slurm, output
from tests.slurm.waiting import until

Make = Callable[..., ClusterConfig]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(slurm: Slurm, tmp_path: Path) -> Iterator[Start]:
    """Start drivers as a shell would, each in a process group of its own."""
    children = []

    def begin(config: ClusterConfig, count: int, seconds: float) -> subprocess.Popen[bytes]:
        path = tmp_path / "config.json"
        path.write_text(config.model_dump_json())
        command = [sys.executable, "-m", "tests.slurm.driver", str(path), str(tmp_path), str(count), str(seconds)]
        with (tmp_path / "driver.log").open("ab") as log:
            child = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()


def status(folder: Path) -> dict[str, object]:
    try:
        return control.read_status(folder / "run").status
    except NoRun:
        return {}


def marks(folder: Path) -> int:
    return len(list((folder / "work" / "marks").glob("*")))


def jobs(state: str = "RUNNING,PENDING") -> int:
    return len(output("squeue", "-h", "-t", state).splitlines())


def test_killed_and_started_again(start: Start, config: Make, tmp_path: Path) -> None:
    """No finished partition runs twice; jobs that still waited and keys of the first driver go at the second start."""
    base = tmp_path / "work"
    child = start(config(6), 30, 0.4)  # more jobs than nodes: some wait
    until(lambda: len(tasks.done(base)) >= 5, 90, (tmp_path / "driver.log").read_text())
    until(lambda: jobs("PENDING") == 2)
    child.kill()
    child.wait()
    finished = tasks.done(base)
    assert list(tmp_path.rglob("key.pem")), "kill -9 leaves the key"
    assert control.read_status(tmp_path / "run").state == "lost"
    before = tasks.executions(base)

    again = start(config(2), 30, 0.4)
    until(lambda: status(tmp_path).get("run"))
    assert len(list(tmp_path.rglob("key.pem"))) == 1
    assert again.wait(120) == 0, (tmp_path / "driver.log").read_text()
    assert tasks.done(base) == set(range(30))
    after = tasks.executions(base)
    assert all(after[number] == before[number] for number in finished)


def test_status_scale_stop_from_another_shell(start: Start, config: Make, tmp_path: Path) -> None:
    child = start(config(1), 400, 0.5)
    until(lambda: status(tmp_path).get("workers") == 1)
    assert control.send(tmp_path / "run", "scale", "4") == "4 jobs"
    until(lambda: status(tmp_path).get("workers") == 4, 30)
    assert status(tmp_path)["jobs"] == {"running": 4}
    with pytest.raises(ClusterError, match="MIN:MAX"):
        control.send(tmp_path / "run", "scale", "many")
    with pytest.raises(ClusterError, match="One driver at a time"), control.Controller(tmp_path / "run"):
        pass
    second = start(config(1), 400, 0.5)
    assert second.wait(60) == 1
    assert f"process {child.pid}" in (tmp_path / "driver.log").read_text()
    os.kill(child.pid, signal.SIGHUP)  # the terminal closes
    control.send(tmp_path / "run", "scale", "1")
    until(lambda: status(tmp_path).get("jobs") == {"running": 1}, 30)
    assert control.send(tmp_path / "run", "stop") == "stopping"
    assert child.wait(60) == 3
    assert control.read_status(tmp_path / "run").state == "ended"
    # What was begun was finished, but for the up to three that scaling down tore away.
    assert 0 <= marks(tmp_path) - len(tasks.done(tmp_path / "work")) <= 3


def test_ctrl_c_once(start: Start, config: Make, tmp_path: Path) -> None:
    child = start(config(2), 400, 2)
    until(lambda: marks(tmp_path) >= 2)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(60) == 3, (tmp_path / "driver.log").read_text()
    done = tasks.done(tmp_path / "work")
    assert len(done) >= 2
    assert tasks.executions(tmp_path / "work") == dict.fromkeys(done, 1)


def test_ctrl_c_twice(start: Start, config: Make, tmp_path: Path) -> None:
    child = start(config(2), 400, 300)
    until(lambda: marks(tmp_path) >= 2)
    os.killpg(child.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(2)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(60) != 0
    assert not tasks.done(tmp_path / "work")


def test_detached(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """The driver in a batch job: watched, scaled and stopped the same; its own SLURM_ settings don't reach workers."""
    settings = config(1, driver={"cpus": 1, "memory": "2G", "walltime": "5"})
    path = tmp_path / "config.json"
    path.write_text(settings.model_dump_json())
    job = detach.submit(
        settings, ["-m", "tests.slurm.driver", str(path), str(tmp_path), "400", "0.5"], folder=tmp_path / "run"
    )
    until(lambda: status(tmp_path).get("workers") == 1, 90, "\n".join(logs.tail(tmp_path / "run", job)))
    assert control.read_status(tmp_path / "run").owner.job == job
    assert control.send(tmp_path / "run", "scale", "2") == "2 jobs"
    until(lambda: status(tmp_path).get("workers") == 2)
    assert control.send(tmp_path / "run", "stop") == "stopping"
    until(lambda: control.read_status(tmp_path / "run").state == "ended")


def test_detached_and_cancelled(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """Scancel of the driver's job takes its workers' jobs and keys with it."""
    settings = config(1)
    path = tmp_path / "config.json"
    path.write_text(settings.model_dump_json())
    job = detach.submit(
        settings, ["-m", "tests.slurm.driver", str(path), str(tmp_path), "400", "0.5"], folder=tmp_path / "run"
    )
    until(lambda: status(tmp_path).get("workers") == 1, 90)
    output("scancel", job)
    until(lambda: jobs() == 0)
    until(lambda: not control.read_status(tmp_path / "run").alive)
