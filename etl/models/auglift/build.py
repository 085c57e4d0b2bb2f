"""Building the networks of the set `auglift`: from files or drawn, on torch or exported."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.processors import processors
from etl.models.auglift import catalog, depth_anything_weights, openmmlab, random_weights
from etl.models.auglift.depth_anything import DepthEstimator, DepthNetwork
from etl.models.auglift.rtmdet import DetectorNetwork, PersonDetector, input_size
from etl.models.auglift.rtmpose import PoseEstimator, PoseNetwork
from etl.models.auglift.runtimes import ONNXRUNTIME, check_installed
from etl.models.auglift.settings import AugliftSettings, Part
from etl.models.engines.export import exported, state_hash
from etl.models.engines.network import Forward, Network
from etl.models.engines.onnx_runtime import on_onnxruntime
from etl.models.engines.torch_runtime import Runtime
from etl.models.files.weights import sha256


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


def _placed(
    settings: AugliftSettings, part: Part, name: str, file: Path | None, make: Callable[[], Network], cache: Path | None
) -> tuple[Runtime, Forward | None]:
    """Where torch works for a network, and what runs the network if that isn't torch."""
    if settings.runtimes[part] != ONNXRUNTIME:
        runtime = Runtime.choose(
            settings.device, settings.precision, channels_last=settings.channels_last, compile=settings.compile
        )
        return runtime, None
    check_installed(ONNXRUNTIME)
    path = exported(name, sha256(file) if file else state_hash(make()), make, cache)
    return Runtime.choose("cpu"), on_onnxruntime(path, processors())


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
