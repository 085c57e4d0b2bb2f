from __future__ import annotations

import stat
from pathlib import Path

from cluster.config import ClusterConfig, SlurmConfig
from cluster.security import RunFolder
from cluster.slurm.folders import run_base


def test_a_folder_of_the_profile_is_left_as_it_is(tmp_path: Path) -> None:
    """A group's folder, say: what the run makes private is a folder of its own in there."""
    tmp_path.chmod(0o755)
    profile = ClusterConfig(kind="slurm", slurm=SlurmConfig(folder=tmp_path))
    base = run_base(profile, Path("/elsewhere"))
    assert base.parent == tmp_path
    RunFolder(base, "xycd-1").remove()
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_else_it_is_the_callers_or_at_home() -> None:
    assert run_base(ClusterConfig(), Path("/elsewhere")) == Path("/elsewhere")
    assert run_base(ClusterConfig(), None) == Path.home() / ".cache" / "xycd" / "cluster"
