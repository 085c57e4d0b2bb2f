"""A disk that is full stops the run in every stage, with a message; the same command goes on once there is space."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from etl.cli.app import main
from etl.cli.progress_bar import ProgressBar
from tests.cluster.small_disk import fill, fill_inodes, mounted
from tests.etl.conftest import Walk

Fill = Callable[[Path], Path]


def command(walk: Walk, work: Path) -> int:
    """Run the command line in this process; its exit status."""
    sys.argv = ["xycd", "run", "h36m", "--root", str(walk.raw), "--workspace", str(work), "--workers", "1"]
    sys.argv += ["--set", "datasets.h36m.hz=50", "--set", "estimate.partition_frames=4"]
    sys.argv += ["--set", "models.set='etl.demo.truth:build'", "--set", f"models.options.folder='{walk.raw}'"]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def free(taken: Path) -> None:
    """Give back what `fill` or `fill_inodes` took."""
    if taken.is_dir():
        shutil.rmtree(taken)
    else:
        taken.unlink()


@pytest.mark.parametrize(
    ("stage", "take"),
    [("annotate", fill), ("annotate", fill_inodes), ("estimate", fill), ("estimate", fill_inodes), ("merge", fill)],
)
def test_a_full_disk_stops_the_run_and_the_same_command_finishes_it(
    shared_walk: Walk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    stage: str,
    take: Fill,
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    start = ProgressBar.start
    with mounted(tmp_path / "disk", kib=8192, inodes=600) as disk:
        taken: list[Path] = []

        def start_on_a_full_disk(self: ProgressBar, title: str, *arguments: int, **options: str) -> None:
            if title == stage and not taken:
                taken.append(take(disk))
            start(self, title, *arguments, **options)

        monkeypatch.setattr(ProgressBar, "start", start_on_a_full_disk)
        monkeypatch.setattr("etl.execution.steps.free_bytes", lambda folder: 10**9)  # full only after the check

        assert command(shared_walk, disk / "work") == 2
        said = capfd.readouterr().err
        assert taken
        assert "error: " in said
        assert "Free some space" in said
        assert "the same command then goes on" in said
        assert "Traceback" not in said
        assert not list(disk.rglob(".*.tmp"))
        assert not list(disk.glob("work/training/*_xycd_*"))

        free(taken[0])
        assert command(shared_walk, disk / "work") == 0, capfd.readouterr().err
        with np.load(disk / "work/training/h36m_xycd_train.npz") as arrays:
            assert arrays["valid_detection"].all()
