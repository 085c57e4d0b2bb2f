from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cluster.config import ClusterConfig, SlurmConfig
from cluster.errors import ClusterError
from cluster.slurm.keys import KeyFolder
from cluster.slurm.shared_folder import jobs_with_logs, log_tail, shared_folder


def test_a_folder_of_the_profile_is_left_as_it_is(tmp_path: Path) -> None:
    """It may belong to a group: the run makes a private folder inside it."""
    tmp_path.chmod(0o755)
    profile = ClusterConfig(kind="slurm", slurm=SlurmConfig(folder=tmp_path))
    base = shared_folder(profile, Path("/elsewhere"))
    assert base.parent == tmp_path
    KeyFolder(base, "xycd-1").remove()
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_else_it_is_the_callers_or_at_home() -> None:
    assert shared_folder(ClusterConfig(), Path("/elsewhere")) == Path("/elsewhere")
    assert shared_folder(ClusterConfig(), None) == Path.home() / ".cache" / "xycd" / "cluster"


def test_logs(tmp_path: Path) -> None:
    assert jobs_with_logs(tmp_path) == []
    (tmp_path / "jobs").mkdir()
    for job in ["9", "10", "x"]:
        (tmp_path / "jobs" / f"{job}.log").write_text(f"first\n\n\x1b[31mlast of {job}\n")
    assert jobs_with_logs(tmp_path) == ["9", "10"]
    assert log_tail(tmp_path, "9", 1) == [" [31mlast of 9"], "no escape sequence reaches a terminal"
    assert log_tail(tmp_path, "9") == ["first", " [31mlast of 9"]
    assert log_tail(tmp_path, "11") == []
    (tmp_path / "jobs" / "12.log").write_text("x" * 200 + "\n" + "y\n" * 100_000)
    assert log_tail(tmp_path, "12", 2) == ["y", "y"]
    for job in ["../9", "9.log", "", "٩"]:
        with pytest.raises(ClusterError, match="number"):
            log_tail(tmp_path, job)
