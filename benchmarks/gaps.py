"""How long a GPU rests while a worker on two cores feeds it, and the host's work for a frame.

    .venv-openmmlab/bin/python -m benchmarks.gaps [--frames 256] [--rounds 3]

A stand-in is busy for a set time in place of the three networks of the set `auglift` (`benchmarks.standin`). All else
is as in earnest: `run_partitions` gives a worker partitions of 128 frames of 1000x1002 px, as JPEG and as H.264, which
it decodes, sends, estimates with a few batches in flight, and writes. The share of busy time is that from the first
call of a network to the end of the last, so it includes what lies between partitions.

The host's work is processor time of one thread in `estimate_batch`, without decoding, on a device that answers at once.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from distributed import Client, LocalCluster

from benchmarks import standin
from benchmarks.harness import Results, Sample, cores, interleaved, median
from benchmarks.material import KINDS, Job, prepare
from cluster.settings import environment
from etl.config import EstimateSettings, ModelSettings
from etl.execution.scheduling import run_partitions
from etl.media.frames import decode
from etl.models.auglift.model_set import AugliftModels
from etl.models.base import Frame
from etl.stages.blocks import chain
from etl.stages.progress import Silent
from schemas.camera import Camera
from schemas.keys import SequenceKey

SIZE = 128
GOALS = {25: 0.97, 100: 0.93, 300: None}  # share of busy time, by the device's frames a second
HOST_MS = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256, help="of each of two sequences")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=int, nargs="*", default=list(GOALS), help="frames/s of the device")
    options = parser.parse_args()
    results, material = Results("gaps"), prepare(options.frames)
    for enabled in (False, True):
        what = "with embeddings" if enabled else "without embeddings"
        steps = host_work(material.root("jpeg"), material.media("jpeg")[0], enabled)
        results.add(f"host's work for a frame, {what}", sum(steps.values()), "ms", at_most=HOST_MS)
        for step, milliseconds in steps.items():
            results.add(f"  {step}", milliseconds, "ms")
    os.environ.update(environment(len(cores()[:2])))
    alone = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with tempfile.TemporaryDirectory() as name, LocalCluster(**alone) as workers, Client(workers) as client:
        works: dict[str, Callable[[], object]] = {}
        goals: dict[str, float | None] = {}
        for rate in options.rates:
            models = ModelSettings(set="benchmarks.standin:build", options={"rate": rate})
            for kind in KINDS:
                for enabled in (False, True):
                    settings = {"partition_frames": SIZE, "embeddings": {"enabled": enabled}}
                    what = f"device busy, {rate} frames/s, {kind}" + (", embeddings" if enabled else "")
                    job = material.job(kind, Path(name) / what.replace("/", ""), models, **settings)
                    works[what] = lambda job=job: rest(client, job)  # type: ignore[misc]
                    goals[what] = GOALS.get(rate)
        runs = interleaved(works, options.rounds)
    for what in works:
        results.add(what, 1 - median(runs, what), at_least=goals[what])
    results.finish()


def rest(client: Client, job: Job) -> Sample:
    """Share of the time in which the device rests, in a run of all partitions; as the seconds of a Sample."""
    for partition in job.partitions:
        (job.store.folder / partition.path).unlink(missing_ok=True)
    client.run(standin.restart)
    outcome = run_partitions(client, job.partitions, job.estimator, job.store, Silent())
    assert outcome.counts == {"ok": sum(partition.frames for partition in job.partitions)}, outcome
    (share,) = client.run(standin.busy_share).values()
    return Sample(1 - share, 0.0)


def host_work(root: Path, media: Any, embeddings: bool, batch: int = 16) -> dict[str, float]:
    """Milliseconds of processor time for a frame, by step."""
    torch.set_num_threads(1)
    models = Stepped(standin.build(0))
    settings = EstimateSettings.model_validate({"embeddings": {"enabled": embeddings}})
    images = [frame.image for frame in decode(root, media, range(batch))]
    key, camera = SequenceKey("folder", "one", "walk", 1, "c"), Camera.from_field_of_view(1000, 1002, 55.0)
    rounds = 20
    for number in range(rounds + 3):
        if number == 3:
            models.seconds.clear()
        frames = [Frame(key, i, image, camera) for i, image in enumerate(images) if image is not None]
        before, begun = models.seconds.total(), time.thread_time()
        chain.estimate_batch(frames, [None] * len(frames), models, settings)
        in_models = models.seconds.total() - before
        models.seconds["choice of people, descriptor"] += time.thread_time() - begun - in_models
    return {step: 1e3 * seconds / rounds / batch for step, seconds in models.seconds.items()}


class Stepped:
    """A model set that measures the processor time of each of its methods.

    Parameters
    ----------
    models : AugliftModels
        The set.
    """

    def __init__(self, models: AugliftModels) -> None:
        self._models = models
        self.seconds: Counter[str] = Counter()
        for name in ("detect", "estimate_poses", "estimate_depth", "embed"):
            setattr(self, name, self._measured(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    def _measured(self, name: str) -> Callable[..., Any]:
        def call(frames: Any, *rest: Any) -> Any:
            begun = time.thread_time()
            if name == "detect":
                self._models._images(frames)
                self.seconds["sending the frame"] += time.thread_time() - begun
                begun = time.thread_time()
            found = getattr(self._models, name)(frames, *rest)
            self.seconds[name] += time.thread_time() - begun
            return found

        return call


if __name__ == "__main__":
    main()
