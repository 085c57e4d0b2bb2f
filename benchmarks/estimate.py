"""Estimate with the embedded networks against their limit, a plain loop, multiprocessing.Pool and Ray Data.

    python -m benchmarks.estimate [--frames 256] [--rounds 5]

The limit: the same networks on the same frames, decoded and in memory, called as fast as they can be by one process a
core, plus decoding alone. On a CPU both need the same cores, so their seconds add up. Every contender has the first two
cores to itself, one process each; one worker has one core. Estimate runs as it does in earnest: partitions through
`etl.execution.scheduling.run_partitions`, on workers that `cluster.start` made, to files in a store. Each figure
comes by wall time and by processor time, which others on the machine hardly touch. Ray Data takes part where it is
installed.
"""

from __future__ import annotations

import argparse
import functools
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from distributed import Client

import cluster
from benchmarks import contenders
from benchmarks.contenders import Crew, Share
from benchmarks.harness import Results, Sample, cores, cpu_seconds, interleaved, median, ratio
from benchmarks.material import KINDS, Job, Kind, Material, prepare, shares
from cluster.config import ClusterConfig
from etl.config import ModelSettings
from etl.execution.scheduling import run_partitions
from etl.stages.progress import Silent
from schemas import annotation
from schemas.camera import Camera

LIMIT, ALONE, LOOP, BATCH = 0.93, 1.8, 1.5, 1.2  # the goals
FEW = 8  # one frame in so many
CHUNK = 16  # images that a process of the plain pool takes at a time


class Workers:
    """Dask workers as estimate has them, one a core."""

    def __init__(self, wanted: list[int], models: ModelSettings, stack: ExitStack) -> None:
        config = ClusterConfig(workers=len(wanted), dashboard=False)
        self.client = stack.enter_context(Client(stack.enter_context(cluster.start(config))))
        self.client.wait_for_workers(len(wanted), timeout=120)
        for core, name in zip(wanted, self.client.scheduler_info(n_workers=-1)["workers"], strict=True):
            self.client.run(os.sched_setaffinity, 0, {core}, workers=[name])
        self.client.run(contenders.build, models)

    def cpu(self) -> float:
        """Processor seconds of all workers so far."""
        return sum(self.client.run(time.process_time).values())

    def estimate(self, job: Job) -> Sample:
        """Run all partitions anew; seconds from the first task to the last receipt."""
        for partition in job.partitions:
            (job.store.folder / partition.path).unlink(missing_ok=True)
        cpu, own, begun = self.cpu(), time.process_time(), time.perf_counter()
        outcome = run_partitions(self.client, job.partitions, job.estimator, job.store, Silent())
        wall = time.perf_counter() - begun
        assert outcome.counts == {"ok": sum(p.rows for p in job.partitions)}, outcome
        return Sample(wall, self.cpu() - cpu + time.process_time() - own)


def camera_of(material: Material) -> Camera:
    """The camera of the sequences."""
    with xr.open_dataset(material.annotations("jpeg")[0], engine="netcdf4") as ds:
        camera = annotation.camera_of(ds)
    assert camera is not None
    return camera


def image_paths(material: Material) -> list[Path]:
    """The JPEGs, in order."""
    return [m.image_path(material.root("jpeg"), i) for m in material.media("jpeg") for i in range(material.frames)]


def features_of(job: Job) -> np.ndarray:
    """All features that a job wrote, in order of sequences and frames."""
    parts = []
    for partition in job.partitions:
        with xr.open_dataset(job.store.folder / partition.path, engine="netcdf4") as ds:
            parts.append(ds["features"].values)
    return np.concatenate(parts)


@contextmanager
def ray_data(camera: Camera, found: dict[str, np.ndarray]) -> Iterator[Callable[[list[Path]], Sample] | None]:
    """Ray Data on the JPEG, as its guide to batch inference has it: read_images, map_batches with actors, write."""
    try:
        import ray
    except ImportError:
        yield None
        return
    # Twice the processors in its books, or the actors would leave no place for the tasks that read.
    ray.init(num_cpus=2 * len(cores()[:2]), include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)

    def run(images: list[Path]) -> Sample:
        output = Path(tempfile.mkdtemp())
        cpu, begun = cpu_seconds(), time.perf_counter()
        (
            ray.data.read_images([str(path) for path in images], mode="RGB", include_paths=True)
            .map_batches(
                contenders.RayPredictor,
                fn_constructor_args=(camera,),
                batch_size=16,
                compute=ray.data.ActorPoolStrategy(size=len(cores()[:2])),
                num_cpus=1,
            )
            .write_parquet(str(output))
        )
        sample = Sample(time.perf_counter() - begun, cpu_seconds() - cpu)
        by_path = {row["path"]: row["features"] for row in ray.data.read_parquet(str(output)).take_all()}
        found["Ray Data"] = np.stack([by_path[path] for path in sorted(by_path)])
        shutil.rmtree(output)
        return sample

    try:
        yield run
    finally:
        ray.shutdown()


def limit_and_estimate(
    material: Material, models: ModelSettings, stack: ExitStack
) -> tuple[dict[str, Callable[[], object]], dict[Kind, Job]]:
    """The networks alone, decoding alone, and estimate with a worker a core and with one: by name; and its jobs."""
    camera, mine = camera_of(material), cores()[:2]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    jobs = {kind: material.job(kind, folder / kind, models) for kind in KINDS}
    crew = Crew(mine, models)
    stack.callback(crew.close)
    parts = {
        kind: [(material.root(kind), camera, part) for part in shares(material, kind, len(mine))] for kind in KINDS
    }
    crew.run(contenders.prepare_limit, *parts["jpeg"])

    def on_crew(work: Callable[..., Any], given: list[Share]) -> Sample:
        return crew.run(work, *given)[1]

    works: dict[str, Callable[[], object]] = {
        "networks": functools.partial(on_crew, contenders.networks_on_frames, parts["jpeg"]),
        "networks on crops": functools.partial(on_crew, contenders.networks_on_crops, parts["jpeg"]),
    }
    for kind in KINDS:
        works[f"decode {kind}"] = functools.partial(on_crew, contenders.decode_only, parts[kind])
    for number in (len(mine), 1):
        workers = Workers(mine[:number], models, stack)
        for kind in KINDS:
            works[f"{kind} {number}"] = functools.partial(workers.estimate, jobs[kind])
    return works, jobs


def others(material: Material, stack: ExitStack, found: dict[str, np.ndarray]) -> dict[str, Callable[[], object]]:
    """What people write instead, with the embedded networks, by name; what they find goes into `found`."""
    camera, mine = camera_of(material), cores()[:2]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    works: dict[str, Callable[[], object]] = {}
    paths = image_paths(material)
    # The script has both cores, and its libraries as many threads as they like.
    free = Crew([None], ModelSettings(), variables={})
    stack.callback(free.close)

    def loop() -> Sample:
        with tempfile.TemporaryDirectory() as output:
            (rows,), sample = free.run(contenders.run_script, (paths, camera, Path(output)))
        found["plain loop"] = rows
        return sample

    works["loop"] = loop

    context = multiprocessing.get_context("spawn")
    seats = context.Queue()
    for core in mine:
        seats.put(core)
    with contenders.environment(contenders.one_thread_each()):
        pool = stack.enter_context(context.Pool(len(mine), contenders.pool_start, (seats, ModelSettings())))

    def pooled() -> Sample:
        begun = time.perf_counter()
        parts = shares(material, "jpeg", 2 * len(mine))
        tasks = [((material.root("jpeg"), camera, part), folder / f"{n}.npz") for n, part in enumerate(parts)]
        done = list(pool.imap(contenders.pool_work, tasks))
        found["a pool of batches"] = np.concatenate([rows for rows, _ in done])
        return Sample(time.perf_counter() - begun, sum(cpu for _, cpu in done))

    def plainly_pooled() -> Sample:
        begun = time.perf_counter()
        root = material.root("jpeg")
        tasks = [(root, camera, media, i) for media in material.media("jpeg") for i in range(material.frames)]
        done = list(pool.imap(contenders.pool_image, tasks, chunksize=CHUNK))
        found["multiprocessing.Pool"] = np.array([row for row, _ in done])
        np.savez(folder / "pool.npz", features=found["multiprocessing.Pool"])
        return Sample(time.perf_counter() - begun, sum(cpu for _, cpu in done))

    works["pool"], works["pool of batches"] = plainly_pooled, pooled
    return works


def against_ray(
    material: Material, ours: Callable[[], object], rounds: int, found: dict[str, np.ndarray], results: Results
) -> None:
    """Estimate against Ray Data, in rounds of their own: its daemons would slow down everything else."""
    paths = image_paths(material)
    with contenders.environment(contenders.one_thread_each()), ray_data(camera_of(material), found) as ray:
        if ray is None:
            results.note("Ray Data is not installed here (pip install ray), and was left out.")
            return
        # Its actors start anew each time: what a few frames take is taken off.
        few = functools.partial(ray, paths[: len(paths) // FEW])
        runs = interleaved({"ray, few": few, "ray": functools.partial(ray, paths), "ours": ours}, rounds)
    both = zip(runs["ray"], runs["ray, few"], runs["ours"], strict=True)
    steady = [(a.wall - b.wall) / (1 - 1 / FEW) / c.wall for a, b, c in both]
    results.add("estimate against Ray Data, its start left out", float(np.median(steady)), "x", at_least=BATCH)
    results.add("the same, with its start", ratio(runs, "ray", "ours"), "x")


def report_limit(results: Results, runs: dict[str, list[Sample]], frames: int) -> None:
    """How near estimate comes to the networks and to decoding, and how near two workers come to two."""
    for clock, word in (("wall", ""), ("cpu", ", processor time")):
        for kind in KINDS:
            seconds = [
                (getattr(n, clock) + getattr(d, clock)) / getattr(e, clock)
                for n, d, e in zip(runs["networks"], runs[f"decode {kind}"], runs[f"{kind} 2"], strict=True)
            ]
            results.add(
                f"estimate of {kind} against networks + decoding{word}", float(np.median(seconds)), at_least=LIMIT
            )
    for kind in KINDS:
        if f"{kind} 1" not in runs:
            continue
        results.add(f"two workers against one, {kind}", ratio(runs, f"{kind} 1", f"{kind} 2"), "x", at_least=ALONE)
        each = ratio(runs, f"{kind} 1", f"{kind} 2", "cpu")
        results.add(f"two workers against one, {kind}, if cores were idle", 2 * each, "x", at_least=ALONE)
    for name in runs:
        results.add(f"processor time a frame: {name}", 1e3 * median(runs, name, "cpu") / frames, "ms")


def report_others(results: Results, runs: dict[str, list[Sample]]) -> None:
    """Estimate, two workers on JPEG, against what people write instead."""
    results.add("estimate against a plain loop", ratio(runs, "loop", "jpeg 2"), "x", at_least=LOOP)
    results.add("processor time of a plain loop over estimate's", ratio(runs, "loop", "jpeg 2", "cpu"), "x")
    for clock, word in (("wall", ""), ("cpu", ", processor time")):
        results.add(
            f"estimate against multiprocessing.Pool{word}", ratio(runs, "pool", "jpeg 2", clock), "x", at_least=1
        )
        # Our own blocks without files that survive a crash, receipts and a driver: what those cost.
        times = ratio(runs, "pool of batches", "jpeg 2", clock)
        results.add(f"estimate against a pool of our own batches{word}", times, "x")


def compare(results: Results, found: dict[str, np.ndarray], own: np.ndarray) -> None:
    """Whether the others find what estimate finds; infinitely far apart where only one of them has a value."""
    for name, rows in found.items():
        same_gaps = np.array_equal(np.isnan(rows), np.isnan(own))
        worst = float(np.nanmax(np.abs(rows - own))) if same_gaps else float("inf")
        results.add(f"largest difference of a feature (px, 1, m): {name}", worst, at_most=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256, help="of each of two sequences")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="of the contestants, by name; prints seconds only")
    options = parser.parse_args()
    results = Results("estimate")
    material = prepare(options.frames)
    found: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        works, jobs = limit_and_estimate(material, ModelSettings(), stack)
        works |= others(material, stack, found)
        if options.only:
            works = {name: work for name, work in works.items() if name in options.only}
        runs = interleaved(works, options.rounds)
        if options.only:
            for name in works:
                wall, cpu = (1e3 * median(runs, name, clock) / (2 * options.frames) for clock in ("wall", "cpu"))
                print(f"{name:24}{wall:8.2f} ms a frame{cpu:8.2f} ms of processors")
            return
        report_limit(results, runs, 2 * options.frames)
        report_others(results, runs)
        against_ray(material, works["jpeg 2"], options.rounds, found, results)
        compare(results, found, features_of(jobs["jpeg"]))
    results.finish()


if __name__ == "__main__":
    main()
