"""Workers on this machine."""

from __future__ import annotations

import math
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

import cluster
from cluster import local, scaling
from cluster.config import ClusterConfig, LocalConfig
from cluster.errors import ClusterError
from cluster.scaling import parse_target
from tests.cluster import tasks


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalCluster]:
    with cluster.start(ClusterConfig(workers=2, threads_per_worker=3)) as started:
        yield started


@pytest.fixture(scope="module")
def client(workers: LocalCluster) -> Iterator[Client]:
    with Client(workers) as client:
        yield client


def count(workers: LocalCluster) -> int:
    return int(cluster.workers_summary(workers)["workers"])


def test_one_task_a_process_and_its_threads(workers: LocalCluster, client: Client) -> None:
    client.wait_for_workers(2, timeout=60)
    assert set(client.nthreads().values()) == {1}
    found = client.submit(tasks.surroundings, pure=False).result(timeout=60)
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == "3"
    assert found["pid"] != str(os.getpid())


def test_nothing_listens_beyond_this_machine(workers: LocalCluster, client: Client) -> None:
    client.wait_for_workers(2, timeout=60)
    me = psutil.Process()
    listening = [c for p in [me, *me.children(recursive=True)] for c in p.net_connections() if c.status == "LISTEN"]
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_summary_and_scale(workers: LocalCluster, client: Client) -> None:
    assert cluster.scale_to(workers, "3") == "3 workers"
    until(lambda: count(workers) == 3)
    summary = cluster.workers_summary(workers)
    assert (summary["kind"], summary["wanted"], summary["adaptive"]) == ("local", 3, None)
    assert summary["dashboard"].startswith("http://127.0.0.1:")
    port = summary["dashboard"].split(":")[2].split("/")[0]
    assert summary["tunnel"].startswith(f"ssh -N -L {port}:127.0.0.1:{port} ")
    assert cluster.scale_to(workers, "1") == "1 worker"
    until(lambda: count(workers) == 1)
    assert cluster.scale_to(workers, " 1:2 ") == "between 1 and 2 workers"
    assert cluster.workers_summary(workers)["adaptive"] == "1:2"
    assert cluster.scale_to(workers, "2") == "2 workers"
    until(lambda: count(workers) == 2 and cluster.workers_summary(workers)["adaptive"] is None)


def test_a_killed_worker_comes_back_and_its_task_runs_again(client: Client, tmp_path: Path) -> None:
    client.wait_for_workers(1, timeout=60)
    assert client.submit(tasks.die_once, str(tmp_path / "note"), pure=False).result(timeout=120) == "alive"


def test_ctrl_c_in_the_terminal_leaves_workers_at_work(client: Client, tmp_path: Path) -> None:
    """A terminal sends SIGINT to all its processes; the closing one SIGHUP."""
    client.wait_for_workers(1, timeout=60)
    path = tmp_path / "go"
    future = client.submit(tasks.sleep_until, str(path), pure=False)
    until((tmp_path / "go.running").exists)
    for process in psutil.Process().children(recursive=True):
        if "spawn_main" in " ".join(process.cmdline()):
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGHUP)
    path.touch()
    assert future.result(timeout=60) is True
    assert len((tmp_path / "go.running").read_text().split()) == 1, "run once, by a worker that wasn't restarted"


def test_settings_are_there_and_restored() -> None:
    key = "distributed.scheduler.allowed-failures"
    before = dask.config.get(key)
    with cluster.start(ClusterConfig(workers=1, dashboard=False, worker_ttl=77)) as started:
        assert started.scheduler.allowed_failures == 20
        assert started.scheduler.worker_ttl == 77
        assert cluster.workers_summary(started)["dashboard"] is None
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{started.scheduler.http_server.port}/status")
    assert dask.config.get(key) == before


def test_adaptive_from_the_start() -> None:
    with cluster.start(ClusterConfig(minimum=1, maximum=2)) as started, Client(started) as client:
        assert cluster.workers_summary(started)["adaptive"] == "1:2"
        assert client.submit(tasks.double, 2).result(timeout=60) == 4


def test_one_worker_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with cluster.start(ClusterConfig(), uses_gpu=True) as started, Client(started) as client:
        client.wait_for_workers(2, timeout=60)
        found = client.run(tasks.surroundings)
        assert sorted(str(answer["CUDA_VISIBLE_DEVICES"]) for answer in found.values()) == ["2", "5"]
        started.scale(1)
        until(lambda: count(started) == 1)
        started.scale(2)
        until(lambda: count(started) == 2)
        found = client.run(tasks.surroundings)
        assert sorted(str(answer["CUDA_VISIBLE_DEVICES"]) for answer in found.values()) == ["2", "5"]


@pytest.mark.parametrize(
    ("gpus", "chosen", "threads"),
    [
        ("2,5", ClusterConfig(), 6),
        ("2,5", ClusterConfig(workers=1), 12),
        ("2,5", ClusterConfig(workers=8), 6),  # there is one a GPU at most
        ("2,5", ClusterConfig(maximum=2), 6),
        ("2,5", ClusterConfig(threads_per_worker=3), 3),
        (",".join(map(str, range(16))), ClusterConfig(), 1),
        ("2,5", ClusterConfig(local=LocalConfig(gpus="none")), 1),
        ("", ClusterConfig(local=LocalConfig(gpus="none")), 1),
    ],
)
def test_workers_with_a_gpu_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, gpus: str, chosen: ClusterConfig, threads: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(local, "cores", lambda: 12)
    with local.LocalWorkers(chosen, uses_gpu=True) as started:
        [spec] = started.new_worker_spec().values()
        found = spec["options"]["env"]
        assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == str(threads)
        assert found["OMP_WAIT_POLICY"] == "PASSIVE", "threads that wait leave processors to those that decode"
        hidden = chosen.local.gpus == "none"
        assert (found["CUDA_VISIBLE_DEVICES"] == "") == hidden
        assert started.default_workers == (12 if hidden else len(gpus.split(",")))


def test_more_gpus_than_cores_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "cores", lambda: 3)
    for gpus, said in (("0,1,2", None), ("0,1,2,3", "4 GPUs share 3 cores, and will wait for frames: ")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        with local.LocalWorkers(ClusterConfig(), uses_gpu=True) as started:
            found = cluster.shortage_of_cores(started)
            assert found is None if said is None else str(found).startswith(said)
    jobs = SimpleNamespace(config=ClusterConfig(kind="slurm", slurm={"gres": "gpu:8", "cpus": 6}))
    assert str(cluster.shortage_of_cores(jobs)).startswith("8 GPUs of a job share 6 cores, and will wait")
    enough = SimpleNamespace(config=ClusterConfig(kind="slurm", slurm={"gres": "gpu:8", "cpus": 8}))
    assert cluster.shortage_of_cores(enough) is None


def test_a_worker_that_never_starts_is_reported_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.exit('no libfoo.so for this worker')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(local, "SILENCE", 2.0)
    with cluster.start(ClusterConfig(workers=1, local=LocalConfig(startup=4))) as started:
        until(lambda: started.failure is not None, 30)  # type: ignore[attr-defined]
        [[_, problem]] = cluster.workers_summary(started)["problems"]
        assert "no worker has connected for" in problem
        assert "no libfoo.so for this worker" in problem
        with pytest.raises(ClusterError, match=r"no libfoo.so for this worker.*cluster.local.startup"):
            raise started.failure  # type: ignore[attr-defined]


def test_workers_that_come_are_no_failure(workers: LocalCluster, client: Client) -> None:
    client.wait_for_workers(1, timeout=60)
    assert workers.failure is None  # type: ignore[attr-defined]
    assert cluster.workers_summary(workers)["problems"] == []


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ClusterError, match="GPU"):
        cluster.start(ClusterConfig(), uses_gpu=True)
    assert local.visible_gpus() == []
    with pytest.raises(ClusterError, match="GPU"):
        cluster.start(ClusterConfig(local=LocalConfig(gpus=())))


@pytest.mark.parametrize(("text", "parsed"), [("12", (12, None)), ("2:20", (2, 20)), ("0", (0, None)), ("0:1", (0, 1))])
def test_targets(text: str, parsed: tuple[int, int | None]) -> None:
    assert parse_target(text) == parsed


@pytest.mark.parametrize("text", ["", "-1", "2:1", "0:0", "a", "1:", ":1", "1:2:3", "1.5", "9999999"])
def test_targets_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="MIN:MAX"):
        parse_target(text)


@pytest.mark.parametrize(
    ("connected", "requested", "maximum", "expected"),
    [
        (1, 4, None, 8),  # jobs that still wait count, two workers each
        (6, 2, None, 6),  # workers that stay while their job leaves count, too
        (0, 0, 20, 20),
        (0, 0, 19, 20),  # whole jobs
        (8, 4, 2, 8),
        (2, 1, math.inf, 4),
        (0, 0, math.inf, 2),
    ],
)
def test_capacity(connected: int, requested: int, maximum: float | None, expected: int) -> None:
    adaptive = None if maximum is None else SimpleNamespace(state="running", minimum=0, maximum=maximum)
    workers = SimpleNamespace(
        workers_per_job=2,
        scheduler_info={"workers": range(connected)},
        worker_spec=range(requested),
        _adaptive=adaptive,
    )
    assert cluster.capacity(workers) == expected


def test_importing_cluster_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, cluster; print([m for m in ('dask', 'distributed', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
