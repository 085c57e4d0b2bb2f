"""The report of a node, and the problems found in it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import node_check
from cluster.config import ClusterConfig, SlurmConfig
from cluster.node_check import Needs
from tests.cluster import tasks


def broken() -> None:
    raise RuntimeError("no weights")


def test_report_here(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "weights").write_bytes(b"x")
    needs = Needs(
        readable={"dataset": tmp_path / "data", "weights": tmp_path / "weights", "other": tmp_path / "absent"},
        writable={"workspace": tmp_path},
    )
    report = node_check.node_report(needs, {"answer": lambda: 42, "failing": broken})
    json.dumps(report)
    assert {name: path["ok"] for name, path in report["paths"].items()} == {
        "dataset": True,
        "weights": True,
        "other": False,
        "workspace": True,
    }
    assert report["paths"]["workspace"]["free_bytes"] > 0
    assert report["extras"] == {"answer": 42, "failing": {"error": "RuntimeError: no weights"}}
    assert abs(report["clock"] - time.time()) < 60
    assert report["torch"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "weights"]
    assert node_check.find_problems(report, needs) == [
        f"other can't be used on {report['host']}: {tmp_path / 'absent'}: No such file or directory.",
        "failing: RuntimeError: no weights.",
    ]


def report_of(**changes: Any) -> dict[str, Any]:
    workspace = {"path": "/w", "ok": True, "free_bytes": 10**9, "free_inodes": 100}
    return {
        "host": "n1",
        "gpus": [],
        "torch": {"cuda": False},
        "paths": {"workspace": workspace},
        "extras": {},
    } | changes


@pytest.mark.parametrize(
    ("needs", "changes", "words"),
    [
        (Needs(writable={"workspace": Path("/w")}, free_bytes=2 * 10**9), {}, "1.0 GB left, 2.0 are needed"),
        (Needs(writable={"workspace": Path("/w")}, free_inodes=101), {}, "100 inodes left, 101 are needed"),
        (Needs(gpu=True), {}, "No GPU on n1"),
        (Needs(torch_cuda=True), {"torch": {"cuda": False, "error": "old driver"}}, "torch can't use a GPU on n1: old"),
        (Needs(), {"clock_skew_s": -90.0}, "differs by -90 s"),
    ],
)
def test_problems(needs: Needs, changes: dict[str, Any], words: str) -> None:
    [found] = node_check.find_problems(report_of(**changes), needs)
    assert words in found


def test_no_problem() -> None:
    needs = Needs(writable={"workspace": Path("/w")}, free_bytes=10**9, free_inodes=100, gpu=True, torch_cuda=True)
    report = report_of(gpus=[{"name": "x"}], torch={"cuda": True}, clock_skew_s=59.0)
    assert node_check.find_problems(report, needs) == []
    report["paths"]["workspace"]["free_inodes"] = None  # the file system doesn't count them
    assert node_check.find_problems(report, needs) == []


def test_run_on_a_worker(tmp_path: Path) -> None:
    report = node_check.check_node(
        ClusterConfig(), Needs(writable={"workspace": tmp_path}), extras={"pid": tasks.surroundings}
    )
    assert report["problems"] == []
    assert abs(report["clock_skew_s"]) < 5
    assert report["scheduler"].startswith("tls://127.0.0.1:")
    assert report["extras"]["pid"]["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("walltime", "asked"), [("8:00:00", "30:00"), ("20", "20:00"), ("0:45", "0:45")])
def test_the_job_of_a_check_is_short(walltime: str, asked: str) -> None:
    assert node_check.short_profile(SlurmConfig(walltime=walltime)).walltime == asked
