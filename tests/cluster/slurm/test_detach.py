"""The driver's own batch job."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cluster import control
from cluster.config import ClusterConfig, DriverConfig, SlurmConfig
from cluster.errors import ClusterError, NoRun, SubmissionRejected
from cluster.slurm import detach
from etl.cli import cluster as cli_cluster
from etl.execution.status import pending_text

CONFIG = ClusterConfig(
    kind="slurm",
    slurm=SlurmConfig(
        partition="gpu",
        account="me",
        prologue=("module load python",),
        python="apptainer exec image.sif python",
        driver=DriverConfig(partition="cpu", cpus=3, memory="8G", walltime="1-0"),
    ),
)


def test_script() -> None:
    arguments = ["-m", "etl.cli", "run", "--config", "my config; id.toml"]
    lines = detach.driver_script(CONFIG, arguments, Path("/shared/run")).splitlines()
    assert lines[0] == "#!/bin/bash"
    for option in [
        "--partition=cpu",
        "--account=me",
        "--cpus-per-task=3",
        "--mem=8G",
        "--time=1-0",
        "--signal=B:INT@300",
        "--no-requeue",
        "--output=/shared/run/jobs/%j.log",
    ]:
        assert f"#SBATCH {option}" in lines
    assert not any("gres" in line for line in lines)
    assert lines[-2] == "module load python"
    assert shlex.split(lines[-1]) == ["exec", "apptainer", "exec", "image.sif", "python", *arguments]


@pytest.mark.parametrize(
    ("slurm", "driver", "asked"),
    [
        ({}, {}, "--mem=4G"),
        ({"memory_per": "cpu"}, {"memory": "2G"}, "--mem-per-cpu=2G"),
        ({"memory_per": "gpu"}, {}, "--mem=4G"),  # the driver's job has no GPU
        ({"memory_per": "none"}, {}, None),
        ({"memory_per": "none"}, {"memory_per": "job"}, "--mem=4G"),
        ({"memory_per": "cpu"}, {"memory": "all"}, "--mem=0"),
    ],
)
def test_the_drivers_memory(slurm: dict[str, object], driver: dict[str, object], asked: str | None) -> None:
    config = ClusterConfig.model_validate({"kind": "slurm", "slurm": {**slurm, "driver": driver}})
    lines = detach.driver_script(config, ["-V"], Path("/r")).splitlines()
    assert [line for line in lines if "--mem" in line] == ([f"#SBATCH {asked}"] if asked else [])


def test_partition_of_the_workers_by_default() -> None:
    config = ClusterConfig(kind="slurm", slurm=SlurmConfig(partition="gpu"))
    assert "#SBATCH --partition=gpu" in detach.driver_script(config, ["-V"], Path("/r")).splitlines()


def fake_sbatch(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "sbatch"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, f'cp "$2" {tmp_path}/seen; echo "77;here"', monkeypatch)
    assert detach.submit_driver(CONFIG, ["-V"], folder=tmp_path / "run") == "77"
    assert (tmp_path / "seen").read_text() == detach.driver_script(CONFIG, ["-V"], tmp_path / "run")
    with pytest.raises(ClusterError, match="single lines"):
        detach.submit_driver(CONFIG, ["a\nb"], folder=tmp_path / "run")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The queue of a SLURM that takes jobs and starts none."""
    queue = tmp_path / "queue"
    fake_sbatch(tmp_path, f"echo '77|PENDING|0:00||(Priority)' > {queue}; echo 77", monkeypatch)
    for name, body in {"squeue": f"cat {queue}", "scancel": f"echo $* > {tmp_path}/cancelled; rm {queue}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return queue


def test_a_driver_that_waits_is_seen_and_can_be_cancelled(queue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert detach.pending_driver(run) is None
    detach.submit_driver(CONFIG, ["-V"], folder=run)
    waiting = detach.pending_driver(run)
    assert waiting is not None
    assert pending_text(waiting) == "run          to be driven by job 77, pending (Priority)"
    with pytest.raises(ClusterError, match="job 77, pending"):
        detach.submit_driver(CONFIG, ["-V"], folder=run)
    assert detach.cancel_pending_driver(run) == "77"
    assert (tmp_path / "cancelled").read_text() == "77\n"
    assert detach.pending_driver(run) is None
    assert detach.cancel_pending_driver(run) is None


def test_a_driver_that_has_begun_waits_no_more(queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    detach.submit_driver(CONFIG, ["-V"], folder=run)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with control.Controller(run):
        assert detach.pending_driver(run) is None
    assert detach.pending_driver(run) is None, "it has ended"


def test_status_and_stop_of_a_driver_that_waits(
    queue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detach.submit_driver(CONFIG, ["-V"], folder=tmp_path / "run")
    cli_cluster.status(tmp_path)
    cli_cluster.stop(tmp_path)
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "run          to be driven by job 77, pending (Priority)",
        "cancelled job 77, the driver of the run, before it started",
    ]
    with pytest.raises(NoRun):
        cli_cluster.status(tmp_path)


def test_submit_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, "echo 'sbatch: error: invalid partition specified: cpu' >&2; exit 1", monkeypatch)
    with pytest.raises(SubmissionRejected, match="invalid partition specified: cpu"):
        detach.submit_driver(CONFIG, ["-V"], folder=tmp_path / "run")
