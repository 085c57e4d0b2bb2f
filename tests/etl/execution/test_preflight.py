from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from cluster.config import ClusterConfig
from cluster.control import Controller
from cluster.errors import ClusterError
from etl import pipeline
from etl.cli import cluster as cli_cluster
from etl.config import Config, ModelSettings, load
from etl.errors import ConfigError, WorkspaceError
from etl.execution.preflight import Trial, _forecast_lines, check_worker
from etl.store.workspace import MARKER, Workspace
from schemas import annotation


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
    text, problems = check_worker(config)
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
        check_worker(gone)


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

    monkeypatch.setattr("cluster.slurm.detach.submit_driver", submit)
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


@pytest.mark.parametrize(
    ("cluster", "outlook"),
    [
        ({"workers": 4}, "2.0 worker-hours: 30 min with 4 workers"),
        ({"kind": "slurm", "workers": 4}, "2.0 GPU-hours: 30 min with 4 jobs"),
        (
            {"kind": "slurm", "maximum": 1, "slurm": {"gres": "gpu:4", "workers_per_job": 4}},
            "2.0 GPU-hours: 30 min with 1 job",
        ),
        (
            {"kind": "slurm", "workers": 1, "slurm": {"gres": "none", "directives": ["--gpus=2"]}},
            "4.0 GPU-hours: 2 h 00 min with 1 job",
        ),
        ({"kind": "slurm", "workers": 2, "slurm": {"gres": "none"}}, "2.0 worker-hours: 60 min with 2 jobs"),
    ],
)
def test_what_the_rate_means(config: Config, cluster: dict[str, Any], outlook: str) -> None:
    config = config.model_copy(update={"cluster": ClusterConfig.model_validate(cluster)})
    report = {"extras": {"partition": {"frames_per_s": 5.0, "decode_threads": 2, "models_s": 1.0}}}
    lines = _forecast_lines(report, config, [(None, [SimpleNamespace(frames=36_000)])])  # type: ignore[list-item]
    assert lines[0] == "rate         5.0 frames/s a worker, with 2 threads to decode; models ready after 1.0 s"
    assert lines[1] == f"outlook      36,000 frames are {outlook}"


def test_the_trial_decodes_as_the_run_will(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("etl.execution.preflight.estimate_rows", lambda rows, *_: asked.append(rows.sizes["frame"]))
    monkeypatch.setattr("etl.execution.preflight.build_planned_models", lambda *_: None)
    monkeypatch.setattr("etl.execution.preflight.load_rows", lambda path, partition: annotation.mock(frames=6))
    monkeypatch.setattr("etl.stages.estimate.processors", lambda: 16)
    trial = Trial(SimpleNamespace(annotation="a.nc"), SimpleNamespace(annotations=Path(), models=None, description=""))  # type: ignore[arg-type]
    assert trial()["decode_threads"] == 8
    assert asked == [2, 6]  # a network's first call is slow
