"""Full disks and scratch disks under the real command on a real SLURM."""

from __future__ import annotations

import collections
import subprocess
import sys
from pathlib import Path

import xarray as xr

from cluster.control import read_status
from etl import pipeline
from etl.config import load
from etl.execution.driver import status_text
from etl.execution.job import Job
from etl.results.features import open_features
from tests.cluster.small_disk import fill, mounted
from tests.etl.datasets.media import write_video
from tests.slurm.boot import Slurm, output
from tests.slurm.conftest import until

FRAMES, SIZE = 30, 3

PROFILE = """
workspace = "{work}"
[datasets.folder]
root = "{raw}"
[models]
set = "tests.etl.staging_processes:build"
options = {{ log = "{log}", seconds = {seconds} }}
[estimate]
partition_frames = {size}
[cluster]
{cluster}
"""
SLURM_PROFILE = """kind = "slurm"
workers = 2
staging.folder = "$XYCD_TEST_SCRATCH"
staging.keep_free = "1K"
[cluster.slurm]
partition = "gpu"
cpus = 1
memory = "1G"
walltime = "10"
interface = "lo"
poll = 0.5
folder = "{jobs}"
prologue = ["export XYCD_TEST_SCRATCH={scratch}"]
"""


def test_a_run_outlives_a_full_disk_and_its_jobs(slurm: Slurm, tmp_path: Path) -> None:
    raw, scratch = tmp_path / "raw", tmp_path / "scratch"
    scratch.mkdir()
    for name in ("walk", "run"):
        write_video(raw / f"{name}.mp4", FRAMES)

    def profile(work: Path, cluster: str, seconds: float) -> Path:
        path = tmp_path / f"{work.name}.toml"
        values = {"raw": raw, "log": tmp_path / f"{work.name}-copies", "size": SIZE, "seconds": seconds}
        path.write_text(PROFILE.format(work=work, cluster=cluster, **values))
        return path

    pipeline.run(load(profile(tmp_path / "local", "workers = 2", 0)))
    with mounted(tmp_path / "disk", kib=4096) as disk:
        work = disk / "slurm"
        path = profile(work, SLURM_PROFILE.format(jobs=tmp_path / "jobs", scratch=scratch), 0.2)
        job, log = Job("folder", load(path)), (tmp_path / "log").open("w")

        def said(*words: str) -> bool:
            return all(word in status_text(read_status(work / "run")) for word in words)

        run = subprocess.Popen([sys.executable, "-m", "etl.cli", "run", "--config", str(path)], stdout=log, stderr=log)
        try:
            until(lambda: len(job.store.receipts()) >= 1 or run.poll() is not None, 180, "for the first partition")
            ballast = fill(disk)
            until(lambda: said("waiting for space"), 120, "for the run to say that it waits")
            finished = set(job.store.receipts())
            before = collections.Counter(a["id"] for a in job.store.attempts())
            output("scancel", "-u", "root")  # the walltime of all is over, say
            until(lambda: said("jobs that end aren't replaced"), 60, "for the keeper")
            # The jobs can't say any more that they wait: the driver looks for itself.
            until(lambda: said(f"waiting for space: {job.store.folder}: "), 120, "for the driver")
            assert not output("squeue", "-h").strip()
            ballast.unlink()
            assert run.wait(timeout=300) == 0, (tmp_path / "log").read_text()
        finally:
            run.kill()
            run.wait()
            log.close()
        attempts = collections.Counter(a["id"] for a in job.store.attempts())
        assert set(job.store.receipts()) == set(attempts)
        assert len(attempts) == 2 * FRAMES // SIZE
        assert {i: attempts[i] for i in finished} == {i: before[i] for i in finished}
        # What the two jobs held went with them: one partition that waited to be written each, and one that had the
        # networks meanwhile.
        assert attempts.total() <= len(attempts) + 4
        xr.testing.assert_equal(open_features(work).load(), open_features(tmp_path / "local").load())
    # One copy of each video for the first jobs, one for those that came after; none stays.
    assert not (tmp_path / "local-copies").exists()
    assert max(collections.Counter((tmp_path / "slurm-copies").read_text().split()).values()) <= 2
    until(lambda: not list(scratch.iterdir()), 30, "for the copies to go")
