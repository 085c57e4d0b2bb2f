"""The command itself, on a disk that fills up under it: watched, freed or stopped, and complete in the end."""

from __future__ import annotations

import collections
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import xarray as xr

from cluster.control import read_status, send
from etl import pipeline
from etl.config import Config, load
from etl.execution.driver import status_text
from etl.execution.job import Job
from etl.results.features import open_features
from tests.cluster.small_disk import fill, mounted

pytestmark = pytest.mark.slow
FRAMES, SIZE = 24, 2


def until(condition: Callable[[], object], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "pics"
    folder.mkdir(parents=True)
    for i in range(FRAMES):
        cv2.imwrite(str(folder / f"{i:02d}.png"), np.full((240, 320, 3), 5 * i, np.uint8))
    return tmp_path / "raw"


def configured(raw: Path, work: Path, seconds: float) -> Config:
    values = {
        "workspace": str(work),
        "datasets": {"folder": {"root": str(raw)}},
        "models": {"set": "tests.etl.fakes:build", "options": {"seconds": seconds}},
        "estimate": {"partition_frames": SIZE},
        "cluster": {"workers": 2},
    }
    return load(None, values)


def start(raw: Path, work: Path, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "etl.cli", "run", "folder", "--root", str(raw), "--workspace", str(work)]
    for assignment in (
        "models.set='tests.etl.fakes:build'",
        f"models.options.seconds={seconds}",
        f"estimate.partition_frames={SIZE}",
        "cluster.workers=2",
    ):
        command += ["--set", assignment]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.open("wb"), start_new_session=True)


def status(work: Path) -> str:
    return status_text(read_status(work / "run"))


def attempts(config: Config) -> collections.Counter[str]:
    return collections.Counter(a["id"] for a in Job("folder", config).store.attempts())


def test_a_run_goes_on_once_there_is_space(raw: Path, tmp_path: Path) -> None:
    pipeline.run(configured(raw, tmp_path / "reference", 0))
    with mounted(tmp_path / "disk", kib=2048) as disk:
        work, log = disk / "work", tmp_path / "log"
        config = configured(raw, work, 0.3)
        process = start(raw, work, log, 0.3)
        try:
            until(lambda: len(Job("folder", config).store.receipts()) >= 2 or process.poll() is not None)
            ballast = fill(disk)
            until(lambda: "waiting for space: " in status(work) and "No space left" in status(work))
            assert read_status(work / "run").alive
            assert process.poll() is None
            ballast.unlink()
            assert process.wait(timeout=180) == 0
        finally:
            process.kill()
            process.wait()
        assert "waiting for space" in log.read_text()
        assert "there is space again" in log.read_text()
        assert set(attempts(config).values()) == {1}
        assert len(attempts(config)) == FRAMES // SIZE
        xr.testing.assert_equal(open_features(work).load(), open_features(tmp_path / "reference").load())
        assert not list(work.rglob(".*.tmp"))


def test_a_run_that_waits_is_stopped_and_goes_on_later(raw: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", kib=2048) as disk:
        work, log = disk / "work", tmp_path / "log"
        config = configured(raw, work, 0.3)
        process = start(raw, work, log, 0.3)
        try:
            until(lambda: len(Job("folder", config).store.receipts()) >= 2 or process.poll() is not None)
            ballast = fill(disk)
            until(lambda: "waiting for space" in status(work))
            assert "finishing" in send(work / "run", "stop")
            assert process.wait(timeout=180) == 1  # not all is done
        finally:
            process.kill()
            process.wait()
        assert "Traceback" not in log.read_text()
        finished = set(Job("folder", config).store.receipts())
        assert 2 <= len(finished) < FRAMES // SIZE
        before = attempts(config)
        ballast.unlink()
        (summary,) = pipeline.run(config)
        assert not summary.troubled
        assert {i: attempts(config)[i] for i in finished} == {i: before[i] for i in finished}
