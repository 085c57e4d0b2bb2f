"""Jobs come and go as they are asked for."""

from __future__ import annotations

import os
import socket
import stat
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

import cluster
from cluster import node_check
from cluster.config import ClusterConfig
from cluster.errors import ClusterError, SubmissionRejected
from cluster.security import make_certificate, security_of
from tests.slurm import tasks
from tests.slurm.boot import Slurm, output
from tests.slurm.driver import drive
from tests.slurm.waiting import until

Make = Callable[..., ClusterConfig]


def connected(workers: object) -> int:
    return int(cluster.workers_summary(workers)["workers"])  # type: ignore[arg-type]


def test_up_down_adapt_and_who_gets_in(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    began = time.monotonic()
    with cluster.start(config(1), folder=tmp_path / "run") as workers, Client(workers) as client:
        client.wait_for_workers(1, timeout=60)
        first = time.monotonic() - began
        print(f"first worker after {first:.1f} s")
        keys = list((tmp_path / "run").rglob("*.pem"))
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
        assert {stat.S_IMODE(path.parent.stat().st_mode) for path in keys} == {0o700}

        assert cluster.scale_to(workers, "4") == "4 jobs"
        until(lambda: cluster.workers_summary(workers)["nodes"] == {"n1": 1, "n2": 1, "n3": 1, "n4": 1})
        client.wait_for_workers(4, timeout=60)
        found = client.run(tasks.node)
        assert {answer["SLURMD_NODENAME"] for answer in found.values()} == {"n1", "n2", "n3", "n4"}
        assert {answer["CUDA_VISIBLE_DEVICES"] for answer in found.values()} == {"0"}
        assert {answer["OMP_NUM_THREADS"] for answer in found.values()} == {"1"}

        # Nothing of the run listens beyond the interface, and workers show nothing on the web.
        pids = {int(str(answer["pid"])) for answer in found.values()}
        nannies = {psutil.Process(pid).ppid() for pid in pids}
        for pid in pids | nannies:
            ports = [connection.laddr for connection in listening(pid)]
            assert {port.ip for port in ports} <= {"127.0.0.1"}
            for port in ports:
                assert not pages(port.port)
        address = workers.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match="reset by peer"):
            Client(address.replace("tls:", "tcp:"), timeout="3s")
        with pytest.raises(OSError, match="certificate does not match"):
            Client(address, security=security_of(*make_certificate()), timeout="3s")
        worker = next(iter(found)).replace("tls:", "tcp:")
        with pytest.raises(OSError, match="reset by peer"):
            Client(worker, timeout="3s")

        cluster.scale_to(workers, "1")
        until(lambda: connected(workers) == 1)
        until(lambda: cluster.workers_summary(workers)["jobs"] == {"running": 1})

        cluster.scale_to(workers, "0:3")
        assert cluster.workers_summary(workers)["adaptive"] == "0:3"
        seen = 0

        def each(finished: int) -> bool:
            nonlocal seen
            seen = max(seen, connected(workers))
            return False

        drive(workers, tmp_path / "work", 20, 1.5, each=each)
        assert seen == 3
        until(lambda: connected(workers) == 0)
        usage = workers.usage()  # type: ignore[attr-defined]
        assert len(usage) >= 4
        assert all(hours > 0 for hours in usage.values())
    assert first < 30


@pytest.mark.parametrize("dashboard", [True, False])
def test_what_the_scheduler_shows(slurm: Slurm, config: Make, tmp_path: Path, dashboard: bool) -> None:
    """With a dashboard its pages are for this host alone; without one there are none."""
    before = {connection.laddr for connection in listening(os.getpid())}
    with cluster.start(config(1, dashboard=dashboard), folder=tmp_path / "run") as workers:
        ports = {connection.laddr for connection in listening(os.getpid())} - before
        assert len(ports) == 2  # dask's, and the web's, which is open in any case
        assert {port.ip for port in ports} == {"127.0.0.1"}
        shown = [page for port in ports for page in pages(port.port)]
        assert ("status" in shown) is dashboard
        if not dashboard:
            assert shown == []
        link = cluster.workers_summary(workers)["dashboard"]
        assert (link is not None) is dashboard
        if link:
            with urllib.request.urlopen(link, timeout=30) as page:
                assert page.status == 200


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"memory": "600M", "memory_per": "cpu", "cpus": 2}, 1200),
        ({"memory_per": "none", "cpus": 2}, 1400),  # the partition's default of 700 MB a core
    ],
)
def test_a_site_that_refuses_mem(
    slurm: Slurm, config: Make, tmp_path: Path, options: dict[str, object], limit: int
) -> None:
    with cluster.start(config(1, partition="strict", **options), folder=tmp_path / "run") as workers:
        until(lambda: connected(workers) == 1)
        (worker,) = workers.scheduler_info["workers"].values()
        assert worker["memory_limit"] == pytest.approx(limit * 2**20, rel=0.01)  # dask rounds it
    with pytest.raises(SubmissionRejected, match="use --mem-per-cpu"):
        cluster.start(config(1, partition="strict", memory="1G"), folder=tmp_path / "other")


def test_memory_of_a_whole_node(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    with cluster.start(config(1, memory="all"), folder=tmp_path / "run") as workers:
        until(lambda: connected(workers) == 1)
        (worker,) = workers.scheduler_info["workers"].values()
        assert worker["memory_limit"] in (0, 8000 * 2**20)  # 0: no limit but SLURM's


def listening(pid: int) -> list[Any]:
    """Sockets on which a process waits for others."""
    return [c for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN]


def pages(port: int) -> list[str]:
    """Those of dask's web pages that are shown to whoever asks at this port."""
    known = ["", "status", "info/main/workers.html", "metrics", "health", "json/counts.json"]
    return [page for page in known if " 200 " in web_answer(port, page) + " "]


def web_answer(port: int, page: str) -> str:
    """First line of the answer to a web request in the clear; empty where the port speaks something else."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(f"GET /{page} HTTP/1.0\r\n\r\n".encode())
            return connection.recv(200).decode("latin-1").partition("\r\n")[0]
        except OSError:
            return ""


def test_rejected_at_first(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(SubmissionRejected, match="invalid partition specified: nowhere"):
        cluster.start(config(partition="nowhere"), folder=tmp_path / "run")
    assert time.monotonic() - began < 30


def test_rejected_later(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """The partition closes during the run: reported, tried again, healed."""
    with cluster.start(config(2), folder=tmp_path / "run") as workers:
        until(lambda: connected(workers) == 2)
        try:
            output("scontrol", "update", "PartitionName=gpu", "State=DRAIN")
            output("scancel", next(iter(workers.jobs)))  # type: ignore[attr-defined]
            until(lambda: any("sbatch refuses" in text for _, text in cluster.workers_summary(workers)["problems"]))
            assert connected(workers) == 1
        finally:
            output("scontrol", "update", "PartitionName=gpu", "State=UP")
        drive(workers, tmp_path / "work", 8, 0.1)
        until(lambda: connected(workers) == 2)


def test_several_workers_a_job(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    """A site that gives whole nodes: one job, two GPUs, two workers, scaled in jobs."""
    whole = config(1, partition="whole", gres="gpu:2", workers_per_job=2, cpus=2)
    with cluster.start(whole, folder=tmp_path / "run") as workers, Client(workers) as client:
        client.wait_for_workers(2, timeout=60)
        found = list(client.run(tasks.node).values())
        assert len({answer["SLURM_JOB_ID"] for answer in found}) == 1
        assert sorted(str(answer["CUDA_VISIBLE_DEVICES"]) for answer in found) == ["0", "1"]
        assert {answer["OMP_NUM_THREADS"] for answer in found} == {"1"}
        output("scancel", next(iter(workers.jobs)))  # type: ignore[attr-defined]
        until(lambda: connected(workers) == 0)
        until(lambda: connected(workers) == 2)
        assert len(output("squeue", "-h", "-t", "RUNNING").splitlines()) == 1
        cluster.scale_to(workers, "0")
        until(lambda: connected(workers) == 0)
        cluster.scale_to(workers, "0:1")
        drive(workers, tmp_path / "work", 4, 0.1)


def test_jobs_that_cannot_start_end_the_run(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    broken = config(1, prologue=("conda_that_is_not_there activate || exit 1",), give_up_after=2)
    with (
        cluster.start(broken, folder=tmp_path / "run") as workers,
        pytest.raises(ClusterError, match="conda_that_is_not_there: command not found"),
    ):
        drive(workers, tmp_path / "work", 4, 0.1)


def test_check(slurm: Slurm, config: Make, tmp_path: Path) -> None:
    needs = node_check.Needs(writable={"workspace": tmp_path}, gpu=True)
    ports = {"scheduler_ports": "21000:22000", "worker_ports": "22001:23000"}
    report = node_check.check_node(config(**ports), needs, folder=tmp_path / "run", extras={"node": tasks.node})
    assert report["job"]
    assert report["extras"]["node"]["SLURMD_NODENAME"] in slurm.nodes
    assert 21000 <= int(report["scheduler"].rpartition(":")[2]) <= 22000
    assert (
        report["problems"] == ["No GPU on {host}: nvidia-smi sees none. Request one with gres.".format(**report)]
        or report["gpus"]
    )
