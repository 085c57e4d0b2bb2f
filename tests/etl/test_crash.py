"""Kill -9 at random moments: the same command again ends with the same arrays, and nothing finished runs twice."""

from __future__ import annotations

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import xarray as xr

from etl import pipeline
from etl.config import Config, load
from etl.execution.job import DatasetJob
from etl.results.features import open_features

FRAMES, SIZE = 24, 2


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "pics"
    folder.mkdir(parents=True)
    for i in range(FRAMES):
        cv2.imwrite(str(folder / f"{i:02d}.png"), np.full((240, 320, 3), 5 * i, np.uint8))
    return tmp_path / "raw"


def configure(raw: Path, work: Path, seconds: float, size: int = SIZE) -> tuple[Config, list[str]]:
    """The same run as a configuration and as a command; `seconds` a frame isn't part of the models' identity."""
    arguments = {
        "models.set": "'tests.etl.fakes:build'",
        "models.options.seconds": seconds,
        "models.options.empty": [5],
        "estimate.partition_frames": size,
        "cluster.workers": 2,
    }
    command = [sys.executable, "-m", "etl.cli", "run", "folder", "--root", str(raw), "--workspace", str(work)]
    for name, value in arguments.items():
        command += ["--set", f"{name}={value}"]
    values = {
        "workspace": str(work),
        "datasets": {"folder": {"root": str(raw)}},
        "models": {"set": "tests.etl.fakes:build", "options": {"seconds": seconds, "empty": [5]}},
        "estimate": {"partition_frames": size},
        "cluster": {"workers": 2},
    }
    return load(None, values), command


def attempts(config: Config) -> collections.Counter[str]:
    return collections.Counter(a["id"] for a in DatasetJob("folder", config).store.attempts())


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for_receipts(config: Config, count: int, process: subprocess.Popen[bytes]) -> None:
    store = DatasetJob("folder", config).store
    deadline = time.monotonic() + 120
    while len(store.receipts()) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_runs_and_workers_lose_nothing(pictures: Path, tmp_path: Path) -> None:
    kill_and_go_on(pictures, tmp_path, FRAMES, SIZE, seconds=0.5)


@pytest.mark.slow
def test_a_real_video_outlives_kills(samples: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(samples / "video" / "vtest.avi", raw)
    # The embedded networks would take minutes; what is at stake is which frames are decoded and kept, and how often.
    kill_and_go_on(raw, tmp_path, 795, 53, seconds=0.02)


def kill_and_go_on(raw: Path, tmp_path: Path, frames: int, size: int, seconds: float) -> None:
    """Kill a run of `frames` frames, then a worker of the next run, and compare with an undisturbed one."""
    undisturbed, _ = configure(raw, tmp_path / "reference", 0.0, size)
    pipeline.run(undisturbed)
    config, command = configure(raw, tmp_path / "work", seconds, size)
    dice = random.Random(7)

    # The whole run dies, driver first; its workers notice and go.
    process = start(command)
    wait_for_receipts(config, 3, process)
    time.sleep(dice.uniform(0, 0.3))
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=60)
    finished = set(DatasetJob("folder", config).store.receipts())
    before = attempts(config)
    assert finished

    # A worker dies in the next run, which goes on.
    process = start(command)
    wait_for_receipts(config, len(finished) + 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    names = ("spawn_main", "dask worker")  # dask renames its processes where setproctitle is installed
    workers = [child for child in children if any(name in " ".join(child.cmdline()) for name in names)]
    assert workers
    os.kill(dice.choice(workers).pid, signal.SIGKILL)
    assert process.wait(timeout=180) == 0

    after = attempts(config)
    assert {i: after[i] for i in finished} == {i: before[i] for i in finished}
    mine, theirs = open_features(tmp_path / "work").load(), open_features(tmp_path / "reference").load()
    assert sorted(mine["frame_number"].values.tolist()) == list(range(frames))
    xr.testing.assert_equal(mine, theirs)
    assert not list((tmp_path / "work").rglob("*.tmp"))

    # A further run finds nothing to do.
    (summary,) = pipeline.run(config)
    assert (summary.ran, summary.kept) == (0, frames // size)
    assert attempts(config) == after


@pytest.mark.slow
def test_ctrl_c_finishes_what_runs_and_the_next_run_the_rest(pictures: Path, tmp_path: Path) -> None:
    config, command = configure(pictures, tmp_path / "work", 1.0)
    process = start(command)
    wait_for_receipts(config, 1, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the driver and its workers alike
    assert process.wait(timeout=120) == 1
    store = DatasetJob("folder", config).store
    finished = store.receipts()
    assert 0 < len(finished) < FRAMES // SIZE
    assert set(attempts(config)) == set(finished)  # what was begun was finished
    pipeline.run(configure(pictures, tmp_path / "work", 0.0)[0])
    assert len(store.receipts()) == FRAMES // SIZE
    assert set(attempts(config).values()) == {1}
