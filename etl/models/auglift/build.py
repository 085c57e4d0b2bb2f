"""Build the networks of the set `auglift`, from files or with random weights, on torch or on ONNX Runtime."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cluster.processors import processors
from etl.models.auglift import catalog, depth_anything_weights, openmmlab, random_weights
from etl.models.auglift.depth_anything import DepthAnythingNetwork, DepthEstimator
from etl.models.auglift.rtmdet import PersonDetector, RTMDetNetwork
from etl.models.auglift.rtmpose import PoseEstimator, RTMPoseNetwork
from etl.models.auglift.runtimes import ONNXRUNTIME, check_installed
from etl.models.auglift.settings import AugliftSettings, Part
from etl.models.engines.export import exported, state_hash
from etl.models.engines.network import Network
from etl.models.engines.onnx_runtime import on_onnxruntime
from etl.models.engines.torch_runtime import TorchContext
from etl.models.files.weights import sha256


def build_detector(settings: AugliftSettings, file: Path | None, cache: Path | None = None) -> PersonDetector:
    """Build the detector from its checkpoint `file`; None draws random weights."""
    network, config = _detector(settings, file)
    return PersonDetector(
        network.model,
        config,
        **_execution(settings, "detector", file, lambda: network, cache),
        min_score=settings.min_score,
        max_overlap=settings.max_overlap,
    )


def build_pose(settings: AugliftSettings, file: Path | None, cache: Path | None = None) -> PoseEstimator:
    """Build the pose estimator; `file` as for `build_detector`."""
    network, config = _pose(settings, file)
    return PoseEstimator(
        network.model,
        config,
        **_execution(settings, "pose", file, lambda: network, cache),
        flip_test=settings.flip_test,
    )


def build_depth(settings: AugliftSettings, file: Path | None, cache: Path | None = None) -> DepthEstimator:
    """Build the depth estimator; `file` as for `build_detector`. Weights are loaded only if torch needs them."""
    make = functools.cache(lambda: _depth(settings, file))
    execution = _execution(settings, "depth", file, make, cache)
    return DepthEstimator(
        make().model if execution["forward"] is None else None,
        config=catalog.depth_config(catalog.find(catalog.DEPTH_ESTIMATORS, settings.depth)),
        **execution,
        processing=settings.processing,
    )


def network_of(settings: AugliftSettings, part: Part, file: Path | None) -> Network:
    """The network of a part, on torch."""
    if part == "depth":
        return _depth(settings, file)
    return (_detector if part == "detector" else _pose)(settings, file)[0]


def _execution(
    settings: AugliftSettings, part: Part, file: Path | None, make: Callable[[], Network], cache: Path | None
) -> dict[str, Any]:
    """Arguments of an `Estimator`: where torch works, what runs the network if that isn't torch, and the batch."""
    batch = getattr(settings, f"{part}_batch")
    if settings.runtimes[part] != ONNXRUNTIME:
        context = TorchContext.choose(
            settings.device, settings.precision, channels_last=settings.channels_last, compile=settings.compile
        )
        return {"context": context, "forward": None, "batch": batch}
    check_installed(ONNXRUNTIME)
    path = exported(getattr(settings, part), sha256(file) if file else state_hash(make()), make, cache)
    return {"context": TorchContext.choose("cpu"), "forward": on_onnxruntime(path, processors()), "batch": batch}


def _detector(settings: AugliftSettings, file: Path | None) -> tuple[RTMDetNetwork, Any]:
    model, config = _openmmlab(catalog.find(catalog.DETECTORS, settings.detector), file, settings.seed)
    size = openmmlab.input_size(config)
    if file is None:
        random_weights.enliven_detector(model, size, settings.seed)
    return RTMDetNetwork(model, size), config


def _pose(settings: AugliftSettings, file: Path | None) -> tuple[RTMPoseNetwork, Any]:
    model, config = _openmmlab(catalog.find(catalog.POSE_ESTIMATORS, settings.pose), file, settings.seed)
    size = openmmlab.input_size(config)
    if file is None:
        random_weights.enliven_pose(model, size, settings.seed)
    return RTMPoseNetwork(model, size), config


def _openmmlab(entry: catalog.OpenMMLabNetwork, file: Path | None, seed: int) -> tuple[torch.nn.Module, Any]:
    config = openmmlab.read_config(entry.package, entry.config)
    return openmmlab.build(config, checkpoint=file, seed=seed), config


def _depth(settings: AugliftSettings, file: Path | None) -> DepthAnythingNetwork:
    config = catalog.depth_config(catalog.find(catalog.DEPTH_ESTIMATORS, settings.depth))
    if file is not None:
        return DepthAnythingNetwork(depth_anything_weights.load(config, file))
    model = depth_anything_weights.draw(config, settings.seed)
    random_weights.enliven_depth(model, settings.seed)
    return DepthAnythingNetwork(model)
