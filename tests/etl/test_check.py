from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.control import Controller
from cluster.errors import ClusterError
from etl import cli_cluster, pipeline
from etl.check import check
from etl.config import Config, ModelSettings, load
from etl.errors import ConfigError, WorkspaceError
from etl.workspace import MARKER, Workspace


@pytest.fixture
def config(tmp_path: Path) -> Config:
    folder = tmp_path / "raw" / "pics"
    folder.mkdir(parents=True)
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((240, 320, 3), np.uint8))
    values = {
        "workspace": str(tmp_path / "w"),
        "datasets": {"folder": {"root": str(tmp_path / "raw")}},
        "models": {"set": "tests.etl.fakes:build", "options": {"seconds": 0.05}, "cache": str(tmp_path)},
        "cluster": {"workers": 4},
    }
    return load(None, values)


@pytest.mark.slow
def test_a_fit_machine(config: Config, tmp_path: Path) -> None:
    pipeline.run(config, stages=("annotate",))
    text, problems = check(config)
    assert problems == []
    lines = {line[:12].strip(): line[12:].strip() for line in text.splitlines()}
    rate = float(lines["rate"].split()[0])
    assert 1 < rate < 20  # each frame sleeps 0.05 s
    assert "6 frames" in lines["outlook"]
    assert "with 4 workers" in lines["outlook"]
    assert not list((tmp_path / "w" / "folder").rglob("features/*/subject*"))


def test_a_missing_dataset_is_told_before_a_worker_starts(config: Config, tmp_path: Path) -> None:
    values = config.model_dump(mode="json", exclude_none=True, by_alias=True)
    gone = load(None, values, {"datasets": {"folder": {"root": str(tmp_path / "gone")}}})
    with pytest.raises(ConfigError, match="gone"):
        check(gone)


def test_detaching_needs_slurm(config: Config) -> None:
    with pytest.raises(ConfigError, match="SLURM job"):
        cli_cluster.detach(config)


def test_a_detached_driver_is_the_same_command(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[list[str]] = []

    def submit(cluster: object, arguments: list[str], folder: Path) -> str:
        assert (config.workspace / MARKER).exists(), "the job finds a folder that isn't a workspace, and isn't empty"
        given.append(arguments)
        return "17"

    monkeypatch.setattr("cluster.detach.submit", submit)
    monkeypatch.setattr(sys, "argv", ["xycd", "run", "--detach", "folder", "--root", "x"])
    slurm = config.model_copy(update={"cluster": config.cluster.model_copy(update={"kind": "slurm"})})
    cli_cluster.detach(slurm)
    assert given == [["-m", "etl.cli", "run", "folder", "--root", "x"]]
    assert "job 17" in capsys.readouterr().out
    with Workspace(config.workspace).writing(), pytest.raises(WorkspaceError, match="One run at a time"):
        cli_cluster.detach(slurm)
    unknown = slurm.model_copy(update={"models": ModelSettings(set="embeded")})
    with pytest.raises(ConfigError, match="embedded"):
        cli_cluster.detach(unknown)
    assert len(given) == 1


def test_logs_of_a_run_without_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli_cluster.logs("3", tmp_path)
    assert "no log of job 3" in capsys.readouterr().out
    with pytest.raises(ClusterError, match="number"):
        cli_cluster.logs("../../etc/passwd", tmp_path)


def test_logs_lie_where_the_run_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under slurm.folder, say."""
    with Controller(tmp_path / "run", interval=0.05) as controller:
        controller.publish({"folder": str(tmp_path / "shared")})
        time.sleep(0.5)
    (tmp_path / "shared" / "jobs").mkdir(parents=True)
    (tmp_path / "shared" / "jobs" / "3.log").write_text("its words\n")
    cli_cluster.logs(None, tmp_path)
    cli_cluster.logs("3", tmp_path)
    assert capsys.readouterr().out == "3  its words\nits words\n"
