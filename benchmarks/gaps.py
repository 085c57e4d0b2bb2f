"""How long networks rest between two partitions, on a worker whose networks don't need its processors, as on a GPU.

    python -m benchmarks.gaps [--frames 256] [--rounds 5] [--rate 100]

In place of networks something sleeps, for as long as a GPU with so many frames a second would work. All else is as in
earnest: a worker of two cores that `run_partitions` gives partitions of 64 frames, of H.264 with 1000x1000 px (which
are decoded from the key frame before them on) and of JPEG, with embeddings of RTMPose-l's and ViT-L's widths written.
"One after the other" is the same without the overlap of partitions (`etl.stages.overlap`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

from benchmarks.harness import Results, Sample, cores, interleaved, median
from benchmarks.material import KINDS, Job, prepare
from cluster.settings import environment
from etl.config import ModelSettings
from etl.execution.scheduling import run_partitions
from etl.models.base import ArrayDepth, DepthField, Detections, Embeddings, Frame, Poses
from etl.stages import estimate
from etl.stages.estimate import Estimator, estimate_partition
from etl.stages.overlap import free_worker_slot
from etl.stages.progress import Silent
from etl.store.partition import Partition, Receipt

SIZE, CHANNELS = 64, (1024, 256)
BUSY = 0.97  # the goal: share of the time in which networks work, with partitions of 512 frames
FRAMES = 512


class Asleep:
    """One person in every frame, found by sleeping."""

    channels = CHANNELS
    on_device = True

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.identity = {"name": "asleep", "files": {}}

    def device_works(self) -> bool:
        """It does."""
        return True

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """One box a frame, after the time that a GPU would take for all that follows."""
        time.sleep(len(frames) / self.rate)
        return [Detections(np.float32([[300, 200, 700, 900]]), np.ones(1, np.float32)) for _ in frames]

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        """Somebody in the middle."""
        joints = np.linspace([400, 250], [600, 850], 17, dtype=np.float32)[None]
        return [Poses(joints, np.full((1, 17), 0.9, np.float32), d.boxes, d.scores) for d in detections]

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        """A wall."""
        return [ArrayDepth(np.full(frame.image.shape[:2], 4, np.float32)) for frame in frames]

    def embed(
        self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[np.ndarray]
    ) -> list[Embeddings]:
        """Zeros."""
        pose, depth = (np.zeros((1, 17, width), np.float16) for width in self.channels)
        return [Embeddings(pose=pose, depth=depth) for _ in poses]


def build(rate: float) -> Asleep:
    """The model set of this benchmark."""
    return Asleep(rate)


def one_after_the_other(partition: Partition, estimator: Estimator) -> Receipt:
    """A partition that begins when the one before is written."""
    estimate.OVERLAP.start_next = lambda: None
    return estimate_partition(partition, estimator)


def overlapping(partition: Partition, estimator: Estimator) -> Receipt:
    """A partition as runs have it."""
    estimate.OVERLAP.start_next = free_worker_slot
    return estimate_partition(partition, estimator)


TASKS = {"one after the other": one_after_the_other, "overlapping": overlapping}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256, help="of each of two sequences")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=100, help="frames a second of the networks")
    options = parser.parse_args()
    results, material = Results("gaps"), prepare(options.frames)
    models = ModelSettings(set="benchmarks.gaps:build", options={"rate": options.rate})
    settings = {"partition_frames": SIZE, "embeddings": {"enabled": True}}
    os.environ.update(environment(len(cores()[:2])))
    alone = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with tempfile.TemporaryDirectory() as name, LocalCluster(**alone) as workers, Client(workers) as client:
        works: dict[str, Callable[[], object]] = {}
        for kind in KINDS:
            job = material.job(kind, Path(name) / kind, models, **settings)
            for word, task in TASKS.items():
                works[f"{kind}, {word}"] = lambda job=job, task=task: rest(client, job, task, options.rate)  # type: ignore[misc]
        runs = interleaved(works, options.rounds)
    for what in works:
        seconds = median(runs, what)
        results.add(f"networks rest, a partition of {what}", 1e3 * seconds, "ms")
        share = (FRAMES / options.rate) / (FRAMES / options.rate + seconds)
        goal = BUSY if "overlapping" in what else None
        results.add(f"  their share of the time, with {FRAMES} frames", share, at_least=goal)
    results.finish()


def rest(client: Client, job: Job, task: Callable[[Partition, Estimator], Receipt], rate: float) -> Sample:
    """Seconds a partition in which networks don't work, in a run of all partitions."""
    for partition in job.partitions:
        (job.store.folder / partition.path).unlink(missing_ok=True)
    begun = time.perf_counter()
    outcome = run_partitions(client, job.partitions, job.estimator, job.store, Silent(), task=task)
    wall = time.perf_counter() - begun
    frames = sum(partition.frames for partition in job.partitions)
    assert outcome.counts == {"ok": frames}, outcome
    return Sample((wall - frames / rate) / len(job.partitions), 0.0)


if __name__ == "__main__":
    main()
