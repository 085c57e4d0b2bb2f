"""SLURM jobs without SLURM; tests/slurm tests them with it."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cluster
from cluster.config import ClusterConfig, SlurmConfig
from cluster.errors import ClusterError, SubmissionRejected
from cluster.scaling import dashboard_link, tunnel
from cluster.slurm import cluster as slurm
from cluster.slurm import commands, jobs, network
from cluster.slurm.supervisor import JobUsage, Supervisor

CONFIG = ClusterConfig(
    kind="slurm",
    workers=2,
    slurm=SlurmConfig(
        partition="gpu",
        account="me",
        qos="night",
        gres="gpu:a100:1",
        cpus=6,
        memory="24G",
        walltime="8:00:00",
        interface="lo",
    ),
)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it doesn't come true"
        time.sleep(0.02)


def test_script() -> None:
    text = jobs.job_script(CONFIG, Path("/shared/run"))
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    for directive in [
        "-p gpu", "-A me", "-n 1", "--cpus-per-task=6", "--mem=24G", "-t 8:00:00", "--nodes=1", "--no-requeue",
        "--output=/shared/run/jobs/%j.log", "--qos=night", "--gres=gpu:a100:1",
    ]:  # fmt: skip
        assert f"#SBATCH {directive}" in lines
    assert "export OMP_NUM_THREADS=6" in lines
    words = lines[-1].split()
    assert words[1:3] == ["-m", "distributed.cli.dask_worker"]
    options = dict(itertools.pairwise(words))
    assert options["--nthreads"] == "1"
    assert options["--memory-limit"] == "24.00GiB"
    assert options["--interface"] == "lo"
    assert options["--protocol"] == "tls://"
    assert options["--tls-key"] == "/shared/run/slurm-xycd-00000000/key.pem"
    assert "--no-dashboard" in words
    # 8 h less 5 minutes to drain, and a spread of 10 minutes on either side
    assert (options["--lifetime"], options["--lifetime-stagger"]) == ("27900s", "600s")


def test_user_settings_of_jobqueue_have_no_say() -> None:
    import dask

    with dask.config.set({"jobqueue.slurm.queue": "evil", "jobqueue.slurm.job-extra-directives": ["--wrap=id"]}):
        text = jobs.job_script(ClusterConfig(kind="slurm"), Path("/shared/run"))
    assert "evil" not in text
    assert "wrap" not in text


@pytest.mark.parametrize("walltime", ["1", "10", "1:00:00", "2-00:00:00"])
def test_lifetime_ends_before_walltime(walltime: str) -> None:
    from cluster.config import walltime_seconds

    leave, spread = jobs.lifetime(SlurmConfig(walltime=walltime))
    seconds = walltime_seconds(walltime)
    assert leave - spread > 0
    assert leave + spread <= seconds - min(300, seconds // 5)


def test_several_workers_a_job() -> None:
    config = ClusterConfig(kind="slurm", slurm=SlurmConfig(gres="gpu:4", workers_per_job=4, memory="64G"))
    worker = jobs.job_script(config, Path("/shared/run")).splitlines()[-1]
    assert " -m cluster.slurm.launcher 4 tls://" in worker
    assert "--memory-limit 16.00GiB" in worker
    assert "--nanny" in worker.split()


@pytest.mark.parametrize(
    ("options", "asked", "limit"),
    [
        ({"memory": "24G"}, "--mem=24G", "24.00GiB"),
        ({"memory": "4G", "memory_per": "cpu", "cpus": 6}, "--mem-per-cpu=4G", "24.00GiB"),
        ({"memory": "40G", "memory_per": "gpu", "gres": "gpu:a100:2"}, "--mem-per-gpu=40G", "80.00GiB"),
        (
            {"memory": "40G", "memory_per": "gpu", "gres": "gpu:2", "workers_per_job": 2},
            "--mem-per-gpu=40G",
            "40.00GiB",
        ),
        ({"memory_per": "none"}, None, "$XYCD_WORKER_MEMORY"),
        ({"memory": "all"}, "--mem=0", "$XYCD_WORKER_MEMORY"),
    ],
)
def test_memory_is_asked_for_once_and_in_the_form_of_the_site(
    options: dict[str, Any], asked: str | None, limit: str
) -> None:
    config = ClusterConfig(kind="slurm", slurm=SlurmConfig.model_validate(options))
    lines = jobs.job_script(config, Path("/shared/run")).splitlines()
    assert [line for line in lines if line.startswith("#SBATCH --mem")] == ([f"#SBATCH {asked}"] if asked else [])
    words = lines[-1].split()
    given = [words[i + 1] for i, word in enumerate(words) if word == "--memory-limit"]
    assert given[-1] == limit


class Worker(SimpleNamespace):
    """A scheduler's view of a connected worker."""

    def __init__(self, name: str, tasks: int) -> None:
        super().__init__(name=name, processing=range(tasks))


@pytest.mark.parametrize(
    ("per_job", "connected", "order"),
    [
        # Jobs without a worker, the latest first; then idle ones; then those with the fewest tasks.
        (1, {"a": 2, "b": 0, "c": 1}, ["e", "d", "b", "c", "a"]),
        (1, {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0}, ["e", "d", "c", "b", "a"]),
        (1, {"d": 0, "e": 0}, ["c", "b", "a", "e", "d"]),
        (2, {"a-0": 1, "a-1": 0, "b-0": 0, "b-1": 0, "c-0": 3, "c-1": 0, "d-0": 0}, ["e", "d", "b", "a", "c"]),
    ],
)
def test_scaling_down_removes_idle_jobs_first(per_job: int, connected: dict[str, int], order: list[str]) -> None:
    states = [Worker(name, tasks) for name, tasks in connected.items()]
    workers = SimpleNamespace(worker_spec=dict.fromkeys("abcde"), workers_per_job=per_job, _states=lambda: states)
    workers._job_name = partial(slurm.SlurmWorkers._job_name, workers)
    assert slurm.SlurmWorkers._expendable(workers) == order  # type: ignore[arg-type]


@pytest.mark.parametrize(("per_job", "count"), [(1, {"n": 2}), (1, {"jobs": 2}), (2, {"n": 3}), (2, {"jobs": 2})])
def test_scale_counts_workers_or_jobs(fake_slurm: Path, per_job: int, count: dict[str, int]) -> None:
    profile = SlurmConfig(interface="lo", poll=60, gres=f"gpu:{per_job}", workers_per_job=per_job)
    fake(fake_slurm, "sbatch", "echo $$")
    with slurm.SlurmWorkers(ClusterConfig(kind="slurm", slurm=profile), fake_slurm / "run") as workers:
        workers.scale(jobs=4)
        before = list(workers.worker_spec)
        assert len(before) == 4
        workers.scale(**count)
        assert list(workers.worker_spec) == before[:2], "the latest go first"


def test_only_these_attributes_of_dask_are_overridden() -> None:
    """Another method with a name of dask's, such as `requested`, would break adaptive scaling."""
    own = {name for name in vars(slurm.SlurmWorkers) if not name.startswith("__")}
    overridden = own & set(dir(slurm.SLURMCluster))
    assert overridden == {"adapt", "close", "job_cls", "scale", "_get_worker_security", "_update_worker_status"}


def test_free_port() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match="free port"):
            network.free_port("127.0.0.1", port, port)
    assert network.free_port("127.0.0.1", port, port) == port


def test_environment_inside_a_job() -> None:
    inside = {
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/c",
        "SLURM_MEM_PER_NODE": "1",
        "SBATCH_ACCOUNT": "x",
        "SQUEUE_FORMAT": "%i",
        "HOME": "/h",
    }
    assert commands.environment(inside) == {"SLURM_CONF": "/c", "HOME": "/h"}
    outside = {"SBATCH_ACCOUNT": "mine", "SLURM_CONF": "/c", "SQUEUE_FORMAT": "%i"}
    assert commands.environment(outside) == {"SBATCH_ACCOUNT": "mine", "SLURM_CONF": "/c"}


def test_parse_queue() -> None:
    text = "12|RUNNING|1-02:03:04|n1|None\n13|PENDING|0:00||(Priority)\n14|RUNNING|INVALID|n2|a|b\n\nrubbish\n"
    found = commands.parse_queue(text)
    assert found["12"] == commands.QueuedJob("12", "RUNNING", 93784, "n1", "None")
    assert found["13"].reason == "(Priority)"
    assert (found["14"].seconds, found["14"].reason) == (0, "a|b")
    assert set(found) == {"12", "13", "14"}


def test_commands_fail_with_their_words(tmp_path: Path) -> None:
    with pytest.raises(commands.CommandFailed, match=r"^no such partition$"):
        commands.run(["sh", "-c", "echo no such partition >&2; exit 1"])
    with pytest.raises(commands.CommandFailed, match="exit status 3"):
        commands.run(["sh", "-c", "exit 3"])
    with pytest.raises(commands.CommandFailed, match="within"):
        commands.run(["sleep", "60"], timeout=0.2)
    with pytest.raises(commands.CommandFailed, match="can't be run"):
        commands.run([str(tmp_path / "absent")])


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake sbatch, squeue and scancel that log their calls; sbatch refuses."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "sbatch": 'echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1',
        "squeue": "exit 0",
        "scancel": "exit 0",
    }
    for name, body in scripts.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path


def test_rejected_at_first(fake_slurm: Path) -> None:
    """The error has SLURM's message; no key remains, and all jobs of that name are cancelled."""
    with pytest.raises(SubmissionRejected, match="Invalid account") as caught:
        cluster.start(CONFIG, folder=fake_slurm / "run")
    assert caught.value.found == "sbatch: error: Batch job submission failed: Invalid account"
    assert [path.name for path in (fake_slurm / "run").iterdir()] == ["jobs"]
    calls = (fake_slurm / "calls").read_text().splitlines()
    assert sum(call.startswith("sbatch") for call in calls) == 1
    assert any(call.startswith("scancel") and "--name=xycd-" in call for call in calls)


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ClusterError, match="sbatch"):
        cluster.start(CONFIG, folder=tmp_path)


def test_folder_that_slurm_would_misread(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"slurm\.folder"):
        jobs.job_script(CONFIG, tmp_path / "a%j b")


def fake(folder: Path, name: str, body: str) -> None:
    """Replace one of the commands of `fake_slurm`."""
    (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")


@pytest.fixture
def quiet() -> ClusterConfig:
    """A profile whose supervisor looks once a minute."""
    return ClusterConfig(kind="slurm", slurm=SlurmConfig(interface="lo", poll=60))


def test_the_heart_beats_while_squeue_hangs(
    fake_slurm: Path, quiet: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "HEARTBEAT", 0.05)
    fake(fake_slurm, "sbatch", "echo 7")
    fake(fake_slurm, "squeue", "sleep 3")
    with slurm.SlurmWorkers.begin(quiet, folder=fake_slurm / "run") as workers:
        note = workers.keys.path / "owner.json"
        os.utime(note, (0, 0))
        until(lambda: note.stat().st_mtime > 0)
        assert workers.supervisor.listed_at is None, "squeue has answered: the test shows nothing"


def test_jobs_are_known_while_sbatch_still_works_on_others(fake_slurm: Path, quiet: ClusterConfig) -> None:
    once = fake_slurm / "once"
    fake(fake_slurm, "sbatch", f"if mkdir {once}; then echo 7; else sleep 3; echo 8; fi 2> /dev/null")
    with slurm.SlurmWorkers(quiet, fake_slurm / "run") as workers:
        workers.scale(jobs=2)
        until(lambda: "7" in workers.submitted())
        assert workers.requested_jobs() == {}
        until(lambda: set(workers.requested_jobs().values()) == {"7", "8"})
        workers.scale(jobs=0)
        until(lambda: not workers.submitted())


def test_summary_of_lists_that_change_meanwhile() -> None:
    """The supervisor changes them in another thread."""
    supervisor = Supervisor(None)  # type: ignore[arg-type]  # it isn't asked to look

    class Growing(tuple[float, str]):
        def __iter__(self) -> Iterator[Any]:
            supervisor.report(f"problem {len(supervisor.problems)}")
            return super().__iter__()

    supervisor.problems.append(Growing((0.0, "a")))
    supervisor.problems.append(Growing((0.0, "b")))

    class Used(JobUsage):
        @property
        def seconds(self) -> int:
            supervisor.usage[f"{len(supervisor.usage)}"] = JobUsage("9", "n1", 0)
            return 3600

        @seconds.setter
        def seconds(self, value: int) -> None:
            pass

    supervisor.usage = {"1": Used("1", "n1", 0), "2": Used("2", "n1", 0)}
    workers = SimpleNamespace(supervisor=supervisor, config=CONFIG)
    assert slurm.SlurmWorkers.usage(workers) == {"1": 1.0, "2": 1.0}  # type: ignore[arg-type]
    shown = SimpleNamespace(supervisor=supervisor, jobs={}, run_name="r", usage=dict)
    assert slurm.SlurmWorkers.summary(shown)["problems"] == [[0.0, "a"], [0.0, "b"]]  # type: ignore[arg-type]


def test_the_way_to_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a driver in a job the tunnel goes through the host that submitted the job."""
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    assert tunnel("http://127.0.0.1:87/status") == "ssh -N -L 87:127.0.0.1:87 me@here"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert tunnel("http://127.0.0.1:87/status") == "ssh -N -L 87:127.0.0.1:87 -J me@login1 me@here"
    assert tunnel("http://10.0.0.5:87/status") == "ssh -N -L 87:10.0.0.5:87 -J me@login1 me@here"


@pytest.mark.parametrize(
    ("bound", "shown"),
    [(True, "127.0.0.1"), ("localhost:0", "localhost"), ("10.1.1.1:8787", "10.1.1.1"), ("0.0.0.0:8787", "10.0.0.5")],
)
def test_the_dashboards_address_is_where_it_listens(bound: bool | str, shown: str) -> None:
    config = ClusterConfig(kind="slurm", dashboard=bound)
    cluster = SimpleNamespace(config=config, dashboard_link="http://10.0.0.5:43669/status")
    assert dashboard_link(cluster) == f"http://{shown}:43669/status"


def test_settings_are_restored(fake_slurm: Path) -> None:
    import dask

    before = dask.config.get("distributed.scheduler.allowed-failures")
    level = logging.getLogger("distributed").level
    with pytest.raises(SubmissionRejected):
        cluster.start(CONFIG, folder=fake_slurm / "run")
    assert dask.config.get("distributed.scheduler.allowed-failures") == before
    assert logging.getLogger("distributed").level == level
