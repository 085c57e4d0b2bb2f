"""What the driver costs: 2.1 million frames as 4,100 partitions that do nothing, on as many threads as given.

python -m benchmarks.driver [--partitions 4100] [--threads 16]

The driver is that of `xycd run`: it publishes a status every second, listens for commands, and asks how many workers
there are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from distributed import Client, LocalCluster

from benchmarks.harness import Results
from etl.config import EstimateSettings, ModelSettings, load
from etl.execution.driver import Driver
from etl.execution.progress import Progress
from etl.execution.resume import inspect_store
from etl.execution.scheduling import run_partitions
from etl.stages.estimate import Estimator
from etl.stages.progress import Silent
from etl.store.partition import Partition, Receipt
from etl.store.workspace import FeatureStore
from schemas.keys import SequenceKey

FRAMES = 512
EACH, MEMORY = 10.0, 1000.0  # the goals: ms a partition, MB


def receipt(partition: Partition, estimator: Estimator) -> Receipt:
    """No-op models: the answer of a worker that has nothing to compute and nothing to write."""
    return Receipt(partition.id, str(partition.path), FRAMES, FRAMES, {"ok": FRAMES}, 0, "0" * 64, 0.0, "nobody")


def partitions(count: int) -> list[Partition]:
    result = []
    for i in range(count):
        key = SequenceKey("h36m", f"S{i // 600}", f"Action{i // 40 % 15}", 1, str(i // 10 % 4))
        first = FRAMES * (i % 10)
        result.append(Partition(key, first, first + FRAMES - 1, FRAMES, FRAMES, f"{i:016x}", "a.nc"))
    return result


def peak_mb() -> float:
    """Peak of this process's memory (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=4100)
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()
    todo = partitions(options.partitions)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = FeatureStore(folder / "features")
        store.create({})
        settings = EstimateSettings(association="person")
        estimator = Estimator(ModelSettings(), settings, folder, folder, store.folder, "{}")
        config = load(None, {"workspace": name, "datasets": {"folder": {"root": name}}})
        with (
            LocalCluster(processes=False, n_workers=1, threads_per_worker=options.threads, dashboard_address=None) as c,
            Client(c) as client,
            Driver(config, Silent(), c) as driver,
        ):
            progress = Progress(Silent(), driver, "h36m")
            progress.begin("estimate", FRAMES * len(todo))
            begun, cpu = time.perf_counter(), time.process_time()
            outcome = run_partitions(
                client, todo, estimator, store, Silent(), tick=progress.check_in, capacity=driver.capacity, task=receipt
            )
            seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        assert outcome.counts["ok"] == FRAMES * len(todo)
        begun = time.perf_counter()
        inspect_store(todo, store)
        looked = time.perf_counter() - begun
    results = Results("driver")
    what = f"{len(todo):,} partitions, {FRAMES * len(todo) / 1e6:.2g} M frames"
    results.add(f"driver, a partition of {what}", 1000 * seconds / len(todo), "ms", at_most=EACH)
    results.add("its processor time, workers of the same process included", 1000 * cpu / len(todo), "ms")
    results.add("memory of the driver", peak_mb(), "MB", at_most=MEMORY)
    results.add("finding that every file is missing", looked, "s")
    results.finish()


if __name__ == "__main__":
    main()
