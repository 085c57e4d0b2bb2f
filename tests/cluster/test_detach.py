"""The driver's own batch job, and its logs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cluster import detach, logs
from cluster.config import ClusterConfig, DriverConfig, SlurmConfig
from cluster.errors import ClusterError, SubmissionRejected

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
    lines = detach.script(CONFIG, arguments, Path("/shared/run")).splitlines()
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


def test_partition_of_the_workers_by_default() -> None:
    config = ClusterConfig(kind="slurm", slurm=SlurmConfig(partition="gpu"))
    assert "#SBATCH --partition=gpu" in detach.script(config, ["-V"], Path("/r")).splitlines()


def fake_sbatch(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "sbatch"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, f'cp "$2" {tmp_path}/seen; echo "77;here"', monkeypatch)
    assert detach.submit(CONFIG, ["-V"], folder=tmp_path / "run") == "77"
    assert (tmp_path / "seen").read_text() == detach.script(CONFIG, ["-V"], tmp_path / "run")
    with pytest.raises(ClusterError, match="single lines"):
        detach.submit(CONFIG, ["a\nb"], folder=tmp_path / "run")


def test_submit_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, "echo 'sbatch: error: invalid partition specified: cpu' >&2; exit 1", monkeypatch)
    with pytest.raises(SubmissionRejected, match="invalid partition specified: cpu"):
        detach.submit(CONFIG, ["-V"], folder=tmp_path / "run")


def test_logs(tmp_path: Path) -> None:
    assert logs.listing(tmp_path) == []
    (tmp_path / "jobs").mkdir()
    for job in ["9", "10", "x"]:
        (tmp_path / "jobs" / f"{job}.log").write_text(f"first\n\n\x1b[31mlast of {job}\n")
    assert logs.listing(tmp_path) == ["9", "10"]
    assert logs.tail(tmp_path, "9", 1) == [" [31mlast of 9"], "no escape sequence reaches a terminal"
    assert logs.tail(tmp_path, "9") == ["first", " [31mlast of 9"]
    assert logs.tail(tmp_path, "11") == []
    (tmp_path / "jobs" / "12.log").write_text("x" * 200 + "\n" + "y\n" * 100_000)
    assert logs.tail(tmp_path, "12", 2) == ["y", "y"]
    for job in ["../9", "9.log", "", "٩"]:
        with pytest.raises(ClusterError, match="number"):
            logs.tail(tmp_path, job)
