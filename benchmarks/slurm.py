"""From `xycd run` to the first worker, and from `xycd scale` to four and back, on a SLURM that is booted here.

    python -m benchmarks.slurm [--rounds 3]

As root, with the packages of tests/slurm/install.sh. The demo's miniature Human3.6M, rendered once into the user's
cache, a new workspace a round, the embedded models. Times are those at which `xycd status` shows it, asked again and
again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import psutil

from benchmarks.harness import Results
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from tests.slurm.boot import Slurm, missing, output

PATIENCE = 180.0  # seconds until a benchmark that gets nowhere gives up
PROFILE = """
workspace = "{work}"
[datasets.h36m]
root = "{raw}"
hz = 50
[estimate]
partition_frames = 8
[cluster]
kind = "slurm"
[cluster.slurm]
partition = "gpu"
cpus = 1
memory = "2G"
walltime = "30"
interface = "lo"
"""


@dataclass
class Round:
    """What one run took, seconds.

    Parameters
    ----------
    prepared, submitted, running, first : float
        From the start of the command until its cluster's keys lay there, its job was in the queue, the job ran,
        and `xycd status` showed its worker.
    driver_cpu, worker_cpu : float
        Processor time until then, of the command and of the job.
    up, back : float
        From the start of `xycd scale` until the status showed 4 workers, and 1.
    """

    prepared: float = 0.0
    submitted: float = 0.0
    running: float = 0.0
    first: float = 0.0
    driver_cpu: float = 0.0
    worker_cpu: float = 0.0
    up: float = 0.0
    back: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    def since(self) -> float:
        """Seconds since its begin."""
        return time.monotonic() - self.begun


def when(condition: Callable[[], object], run: subprocess.Popen[bytes]) -> float:
    """Wait for something to come true; at what time it did."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if run.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"the run got nowhere (status {run.returncode}): {output('squeue')}")
        time.sleep(0.02)
    return time.monotonic()


def measure(folder: Path, raw: Path) -> Round:
    """One run, stopped when all is seen."""
    work, config = folder / "work", folder / "xycd.toml"
    config.write_text(PROFILE.format(work=work, raw=raw))
    command = [sys.executable, "-m", "etl.cli"]

    def workers() -> int:
        shown = subprocess.run([*command, "status", "-w", str(work)], capture_output=True, text=True, check=False)
        found = re.search(r"^workers +(\d+)$", shown.stdout, re.MULTILINE)  # no line before there is a cluster
        return int(found[1]) if found else 0

    def scale(target: int, run: subprocess.Popen[bytes]) -> float:
        begun = time.monotonic()
        subprocess.run([*command, "scale", str(target), "-w", str(work)], check=True, stdout=subprocess.DEVNULL)
        return when(lambda: workers() == target, run) - begun

    found = Round()
    with (folder / "log").open("wb") as log:
        run = subprocess.Popen([*command, "run", "--config", str(config)], stdout=log, stderr=log)
    try:
        found.prepared = when(lambda: list(work.glob("run/slurm-*/key.pem")), run) - found.begun
        found.submitted = when(lambda: output("squeue", "-h"), run) - found.begun
        found.running = when(lambda: list(work.glob("run/jobs/*.log")), run) - found.begun
        found.first = when(lambda: workers() >= 1, run) - found.begun
        found.driver_cpu = cpu_of([psutil.Process(run.pid)])
        found.worker_cpu = cpu_of(in_jobs())
        found.up = scale(4, run)
        found.back = scale(1, run)
        subprocess.run([*command, "stop", "--now", "-w", str(work)], check=True, stdout=subprocess.DEVNULL)
        run.wait(PATIENCE)
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
    return found


def in_jobs() -> list[psutil.Process]:
    """Processes of all jobs of the test SLURM."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if "SLURM_JOB_ID" in environment and environment.get("SLURM_CONF") == os.environ["SLURM_CONF"]:
                found.append(process)
    return found


def cpu_of(processes: list[psutil.Process]) -> float:
    """Processor time so far, with that of children that have ended."""
    used = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results = Results("slurm")
    reason = missing()
    if reason:
        results.note(f"not measured: {reason}")
        results.finish()
        return
    raw = Path(platformdirs.user_cache_dir("xycd")) / "benchmarks" / "demo" / "h36m"
    render(raw, Plan())
    folder = Path(tempfile.mkdtemp(prefix="xycd-bench-slurm-"))
    folder.chmod(0o711)  # munged wants its socket reachable by all
    slurm = Slurm(folder / "slurm")
    rounds = []
    try:
        slurm.start()
        for number in range(options.rounds):
            (folder / str(number)).mkdir()
            rounds.append(measure(folder / str(number), raw))
            slurm.wait_idle()
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)

    def median(name: str) -> float:
        return statistics.median(getattr(one, name) for one in rounds)

    results.add("xycd run until its first worker is seen", median("first"), "s", at_most=10)
    results.add("  until the cluster starts (imports, annotations)", median("prepared"), "s")
    results.add("  until sbatch has taken the job", median("submitted"), "s")
    results.add("  until the job runs", median("running"), "s")
    results.add("  processor time of the command until then", median("driver_cpu"), "s")
    results.add("  processor time of the job until then", median("worker_cpu"), "s")
    results.add("xycd scale 4 until 4 workers are seen", median("up"), "s", at_most=10)
    results.add("xycd scale 1 until 1 worker is seen", median("back"), "s", at_most=10)
    results.finish()


if __name__ == "__main__":
    main()
