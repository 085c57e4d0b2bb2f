"""Building the networks of the set `auglift`: from files or drawn, on torch or exported, and racing the runtimes."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from cluster.processors import processors
from etl.errors import ModelError
from etl.models.auglift import catalog, depth_anything_weights, openmmlab, random_weights
from etl.models.auglift.depth_anything import DepthEstimator, DepthNetwork
from etl.models.auglift.rtmdet import DetectorNetwork, PersonDetector, input_size
from etl.models.auglift.rtmpose import PoseEstimator, PoseNetwork
from etl.models.auglift.settings import AugliftSettings, Part
from etl.models.engines.choice import TORCH, check_installed, installed, race
from etl.models.engines.engines import ENGINES
from etl.models.engines.export import exported, state_hash
from etl.models.engines.network import Forward, Network, on_torch
from etl.models.engines.torch_runtime import Runtime
from etl.models.files.weights import sha256

log = logging.getLogger(__name__)

# Of a raced call: large networks are raced on fewer pictures than they run on, which changes nothing for them.
_CALL_S: Final = 2.0
# How far apart runtimes may be, of the largest value of an output; rounding errors are a hundred times smaller.
_AGREEMENT: Final = 1e-3


def build_detector(settings: AugliftSettings, file: Path | None, cache: Path | None = None) -> PersonDetector:
    """The detector; `file` is its checkpoint, None for random weights."""
    entry = catalog.find(catalog.DETECTORS, settings.detector)
    network, config = _detector(entry, file, settings.seed)
    runtime, forward = _placed(settings, "detector", entry.name, file, lambda: network, cache)
    return PersonDetector(
        network.model,
        config,
        runtime,
        forward=forward,
        batch=settings.detector_batch,
        min_score=settings.min_score,
        max_overlap=settings.max_overlap,
    )


def build_pose(settings: AugliftSettings, file: Path | None, cache: Path | None = None) -> PoseEstimator:
    """The pose estimator; `file` as for `build_detector`."""
    entry = catalog.find(catalog.POSE_ESTIMATORS, settings.pose)
    network, config = _pose(entry, file, settings.seed)
    runtime, forward = _placed(settings, "pose", entry.name, file, lambda: network, cache)
    return PoseEstimator(
        network.model, config, runtime, forward=forward, batch=settings.pose_batch, flip_test=settings.flip_test
    )


def build_depth(settings: AugliftSettings, file: Path | None, cache: Path | None = None) -> DepthEstimator:
    """The depth estimator; `file` as for `build_detector`. Torch loads the weights only where it needs them."""
    entry = catalog.find(catalog.DEPTH_ESTIMATORS, settings.depth)
    config = catalog.depth_config(entry)
    make = functools.cache(lambda: _depth(config, file, settings.seed))
    runtime, forward = _placed(settings, "depth", entry.name, file, make, cache)
    return DepthEstimator(
        make().model if forward is None else None,
        runtime,
        config=config,
        forward=forward,
        batch=settings.depth_batch,
        processing=settings.processing,
        resize_where=settings.depth_resize,
    )


def measure(
    settings: AugliftSettings,
    part: Part,
    file: Path | None,
    cache: Path | None = None,
    *,
    threads: int,
    frames: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds that a network takes for a picture on each runtime that is installed, on this machine's CPU.

    Parameters
    ----------
    settings : AugliftSettings
        Which networks, and how torch runs.
    part : {"detector", "pose", "depth"}
        Which of them.
    file : Path or None
        Its checkpoint; None for random weights.
    cache : Path, optional
        Folder of the model files, which gets the exported network.
    threads : int
        That a worker has.
    frames : int
        That a worker hands over at a time.
    clock : callable
        Seconds.

    Raises
    ------
    ModelError
        When the network can't be built or exported. A runtime that can't load it, or whose answers are others than
        torch's, only doesn't take part.
    """
    name = getattr(settings, part)
    network = network_of(settings, part, file)
    path = exported(name, sha256(file) if file else state_hash(network), lambda: network, cache)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runtime = Runtime.choose("cpu", channels_last=settings.channels_last, compile=settings.compile)
        forwards = {TORCH: on_torch(network, runtime)}
        probe = network.example(1)
        expected = forwards[TORCH](probe)
        started = clock()
        forwards[TORCH](probe)
        single = clock() - started
        for engine in installed()[1:]:
            if (forward := _contestant(engine, path, threads, probe, expected)) is not None:
                forwards[engine] = forward
        batch = max(1, min(frames, getattr(settings, f"{part}_batch"), int(_CALL_S / max(single, 1e-6))))
        images = network.example(batch)
        seconds = race({engine: functools.partial(run, images) for engine, run in forwards.items()}, clock=clock)
    finally:
        torch.set_num_threads(before)
    return {engine: value / batch for engine, value in seconds.items()}


def _contestant(
    engine: str, path: Path, threads: int, probe: torch.Tensor, expected: tuple[torch.Tensor, ...]
) -> Forward | None:
    try:
        forward = ENGINES[engine](path, threads)
    except ModelError as error:
        log.warning("%s doesn't take part: %s", engine, error)
        return None
    for own, others in zip(expected, forward(probe), strict=True):
        apart = float((own - others).abs().max() / own.abs().max().clamp(min=1e-6))
        if not apart < _AGREEMENT:
            log.warning("%s doesn't take part: its answers for %s are %.2g from torch's", engine, path.name, apart)
            return None
    return forward


def _placed(
    settings: AugliftSettings, part: Part, name: str, file: Path | None, make: Callable[[], Network], cache: Path | None
) -> tuple[Runtime, Forward | None]:
    """Where torch works for a network, and what runs the network if that isn't torch."""
    engine = settings.engines[part]
    if engine in ("auto", TORCH):
        runtime = Runtime.choose(
            settings.device, settings.precision, channels_last=settings.channels_last, compile=settings.compile
        )
        return runtime, None
    check_installed(engine)
    path = exported(name, sha256(file) if file else state_hash(make()), make, cache)
    return Runtime.choose("cpu"), ENGINES[engine](path, processors())


def network_of(settings: AugliftSettings, part: Part, file: Path | None) -> Network:
    """The network of a part, on torch."""
    if part == "detector":
        return _detector(catalog.find(catalog.DETECTORS, settings.detector), file, settings.seed)[0]
    if part == "pose":
        return _pose(catalog.find(catalog.POSE_ESTIMATORS, settings.pose), file, settings.seed)[0]
    return _depth(catalog.depth_config(catalog.find(catalog.DEPTH_ESTIMATORS, settings.depth)), file, settings.seed)


def _detector(entry: catalog.OpenMMLabNetwork, file: Path | None, seed: int) -> tuple[DetectorNetwork, Any]:
    config = openmmlab.read_config(entry.package, entry.config)
    model = openmmlab.build(config, checkpoint=file, seed=seed)
    if file is None:
        random_weights.enliven_detector(model, input_size(config), seed)
    return DetectorNetwork(model, input_size(config)), config


def _pose(entry: catalog.OpenMMLabNetwork, file: Path | None, seed: int) -> tuple[PoseNetwork, Any]:
    config = openmmlab.read_config(entry.package, entry.config)
    model = openmmlab.build(config, checkpoint=file, seed=seed)
    width, height = config.codec.input_size
    if file is None:
        random_weights.enliven_pose(model, (width, height), seed)
    return PoseNetwork(model, (width, height)), config


def _depth(config: Any, file: Path | None, seed: int) -> DepthNetwork:
    if file is not None:
        return DepthNetwork(depth_anything_weights.load(config, file))
    model = depth_anything_weights.draw(config, seed)
    random_weights.enliven_depth(model, seed)
    return DepthNetwork(model)
