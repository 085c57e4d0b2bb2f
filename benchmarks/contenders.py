"""What estimate is compared with: the networks alone, a plain loop, multiprocessing.Pool and Ray Data.

All use the same networks; what they make of a frame is returned, and must agree with estimate's.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.harness import Sample
from cluster import settings
from cluster.settings import THREAD_VARIABLES
from etl.config import EstimateSettings, ModelSettings
from etl.media.frames import Media, decode
from etl.models import geometry
from etl.models.base import Frame
from etl.stages.blocks.chain import estimate_batch
from etl.stages.blocks.people import choose_person
from etl.stages.blocks.skeleton import coco_to_h36m
from etl.stages.identity import build_models
from schemas.camera import Camera
from schemas.keys import SequenceKey

Share = tuple[Path, Camera, list[tuple[Media, int]]]  # the media's root, the camera, frames
SETTINGS = EstimateSettings(association="person")
KEY = SequenceKey("h36m", "S1", "Walking", 1, "54138969")
_here: dict[str, Any] = {}  # of a process of a Crew


@dataclass(frozen=True)
class Call:
    """One call of a network: what it is given, and how that is cut from a frame, where it is."""

    network: Callable[[Any], Any]
    given: Any
    cut: Callable[[], Any] | None = None


class Crew:
    """Processes, each on a core of its own, that do their shares at the same time.

    Unless told otherwise they have the environment of a worker: one thread each, and memory that stays with them once
    they have freed it. A core that is None is any.
    """

    def __init__(
        self, cores: Sequence[int | None], models: ModelSettings, variables: Mapping[str, str] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        with environment(settings.environment(1) if variables is None else variables):
            self.pools = [context.Pool(1, _join, (core, models)) for core in cores]

    def run(self, work: Callable[..., Any], *shares: Any) -> tuple[list[Any], Sample]:
        """Results of `work(share)`, one process a share, and the seconds that took."""
        begun = time.perf_counter()
        waiting = [pool.apply_async(_measured, (work, share)) for pool, share in zip(self.pools, shares, strict=False)]
        found = [result.get() for result in waiting]
        return [result for result, _ in found], Sample(time.perf_counter() - begun, sum(cpu for _, cpu in found))

    def close(self) -> None:
        """End the processes."""
        for pool in self.pools:
            pool.terminate()
            pool.join()


def _join(core: int | None, models: ModelSettings) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
        cv2.setNumThreads(1)
    _here["models"] = build_models(models)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of the processes that start meanwhile, in place of all that a worker of ours would have.

    Dask leaves those of its workers in the process that has started them.
    """
    before = {name: os.environ.pop(name, None) for name in {**settings.environment(1), **variables}}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _measured(work: Callable[..., Any], share: Any) -> tuple[Any, float]:
    cpu = time.process_time()
    result = work(share)
    return result, time.process_time() - cpu


def images(share: Share) -> list[Frame]:
    """The share's frames, decoded."""
    root, camera, wanted = share
    found = []
    for media in dict.fromkeys(media for media, _ in wanted):
        numbers = [number for m, number in wanted if m == media]
        for item in decode(root, media, numbers, threads=1):
            assert item.image is not None, item.error
            found.append(Frame(KEY, item.number, item.image, camera))
    return found


def decode_only(share: Share) -> int:
    """Decode the share, and nothing else."""
    root, _, wanted = share
    count = 0
    for media in dict.fromkeys(media for media, _ in wanted):
        numbers = [number for m, number in wanted if m == media]
        count += sum(item.image is not None for item in decode(root, media, numbers, threads=1))
    return count


def prepare_limit(share: Share) -> None:
    """Decode the share into memory, and note with what its networks are called when estimate has these frames."""
    models = _here["models"]
    record = _calls_on_crops if hasattr(models, "_landmarker") else _calls_on_tensors
    _here["limit"] = record(models, images(share))


def _calls_on_crops(models: Any, frames: list[Frame]) -> list[Call]:
    """Calls of the embedded networks, which take one crop of a frame at a time: with and without cutting it."""
    calls: list[Any] = []
    warp, networks = geometry.warp, {name: getattr(models, name) for name in ("_detector", "_landmarker")}

    def noted(image: Any, matrix: Any, size: Any, **options: Any) -> Any:
        crop = warp(image, matrix, size, **options)
        calls.append([functools.partial(warp, image, matrix, size, **options), crop, None])
        return crop

    def called(network: Any) -> Callable[[Any], Any]:
        def call(crop: Any) -> Any:
            calls[-1][-1] = network
            return network(crop)

        return call

    geometry.warp = noted
    for name, network in networks.items():
        setattr(models, name, called(network))
    for frame in frames:
        models.detect([frame])
    geometry.warp = warp
    for name, network in networks.items():
        setattr(models, name, network)
    return [Call(network, crop, cut) for cut, crop, network in calls]


def _calls_on_tensors(models: Any, frames: list[Frame]) -> list[Call]:
    """Calls of the reference networks in the batches of a run, on tensors that are there already."""
    calls: list[Call] = []
    parts = (models.detector, models.pose, models.depth)
    forwards = [part.forward for part in parts]

    def noted(forward: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(tensor: Any) -> Any:
            calls.append(Call(forward, tensor.clone()))
            return forward(tensor)

        return call

    for part, forward in zip(parts, forwards, strict=True):
        part.forward = noted(forward)
    for start in range(0, len(frames), SETTINGS.batch):
        part_of_them = frames[start : start + SETTINGS.batch]
        estimate_batch(part_of_them, [None] * len(part_of_them), models, SETTINGS)
    for part, forward in zip(parts, forwards, strict=True):
        part.forward = forward
    return calls


def networks_on_frames(_: Any) -> int:
    """The networks on frames in memory, and nothing else: crops are cut anew for those that take crops."""
    for call in _here["limit"]:
        call.network(call.given if call.cut is None else call.cut())
    return len(_here["limit"])


def networks_on_crops(_: Any) -> int:
    """The networks on what is there already."""
    for call in _here["limit"]:
        call.network(call.given)
    return len(_here["limit"])


def describe_joints(depth: np.ndarray, joints: np.ndarray, confidence: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Depth, least and greatest depth around each joint, as the formula says it."""
    height, width = depth.shape
    scale = math.dist(joints[0], joints[8])
    rows = []
    for (x, y), c, fallback in zip(joints.tolist(), confidence.tolist(), own.tolist(), strict=True):
        r = min(max(0.04 * scale * (1 + 3 * (1 - min(max(c, 0), 1))) ** 1.5, 3), 30)
        cx = min(max(math.floor(x + 0.5), 0), width - 1)
        cy = min(max(math.floor(y + 0.5), 0), height - 1)
        found = []
        for v in range(max(cy - int(r), 0), min(cy + int(r) + 1, height)):
            for u in range(max(cx - int(r), 0), min(cx + int(r) + 1, width)):
                away = (u - cx) ** 2 + (v - cy) ** 2
                if away <= r * r and math.isfinite(depth[v, u]):
                    found.append((away, float(depth[v, u])))
        values = [value for _, value in found] or [fallback]
        point = min(found, key=lambda item: item[0])[1] if found else fallback
        rows.append((point, min(values), max(values)))
    return np.array(rows)


def read_image(path: Path) -> np.ndarray:
    """As OpenCV's examples read images."""
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def script(images: Sequence[Path], camera: Camera, output: Path) -> np.ndarray:
    """A plain script: image after image, joint after joint, pixel after pixel, one compressed npz a frame."""
    models = _here["models"]
    rows = []
    for number, path in enumerate(images):
        image = read_image(path)
        frame = Frame(KEY, number, image, camera)
        (poses,) = models.estimate_poses([frame], models.detect([frame]))
        chosen = choose_person(poses)
        if chosen is None:
            continue
        poses = poses.take([chosen])
        (xy,), (confidence,) = coco_to_h36m(poses.keypoints, poses.scores)
        (field,) = models.estimate_depth([frame], [poses])
        described = describe_joints(field.to_array(), xy, confidence, field.joint_depth[0])
        rows.append(np.column_stack([xy, confidence, described]))
        np.savez_compressed(output / f"{number:06d}.npz", keypoints=xy, scores=confidence, depths=described)
    return np.array(rows, np.float32)


def run_script(share: tuple[list[Path], Camera, Path]) -> np.ndarray:
    """`script` in a process of a Crew."""
    return script(*share)


def pool_start(cores: Any, models: ModelSettings) -> None:
    """Initializer of multiprocessing.Pool: networks once a process, on one core."""
    _join(cores.get(), models)


def pool_work(given: tuple[Share, Path], batch: int = 16) -> tuple[np.ndarray, float]:
    """A task of many frames: decode, estimate in batches as a run does, write; the features, and its processor time."""
    cpu, rows = time.process_time(), []
    share, output = given
    frames = images(share)
    for start in range(0, len(frames), batch):
        part = frames[start : start + batch]
        rows += [r.values[0] for r in estimate_batch(part, [None] * len(part), _here["models"], SETTINGS)]
    np.savez(output, features=np.array(rows))
    return np.array(rows), time.process_time() - cpu


def pool_image(given: tuple[Path, Camera, Media, int]) -> tuple[np.ndarray, float]:
    """A plain task of multiprocessing.Pool, one image; its features, and the processor time it took."""
    cpu = time.process_time()
    root, camera, media, number = given
    frames = images((root, camera, [(media, number)]))
    (found,) = estimate_batch(frames, [None], _here["models"], SETTINGS)
    return found.values[0], time.process_time() - cpu


class RayPredictor:
    """What Ray Data's map_batches takes: networks once an actor, then dicts of arrays."""

    def __init__(self, camera: Camera) -> None:
        _join(None, ModelSettings())
        cv2.setNumThreads(1)
        self.camera = camera

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        frames = [Frame(KEY, i, image, self.camera) for i, image in enumerate(batch["image"])]
        found = estimate_batch(frames, [None] * len(frames), _here["models"], SETTINGS)
        return {"path": batch["path"], "features": np.stack([r.values[0] for r in found])}


def build(models: ModelSettings) -> None:
    """Build a worker's networks beforehand."""
    build_models(models)


def one_thread_each() -> dict[str, str]:
    """Variables that keep numeric libraries to one thread, as every guide recommends where processes share cores."""
    return dict.fromkeys(THREAD_VARIABLES, "1")
