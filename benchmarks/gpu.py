"""What xycd does on one GPU: agreement with the CPU, speed of each network, and whole runs.

    python -m benchmarks.gpu [--out FOLDER] [--minutes 7] [--networks NAME ...]
    python -m benchmarks.gpu --device cpu --tiny --batches 1    # on any machine; its speeds say nothing about a GPU

Nothing is fetched: networks have seeded random weights. It needs torch, torchvision, transformers and numpy, OpenCV and
Pillow. The extra `openmmlab` (mmdet, mmpose, mmengine, mmcv) adds RTMDet and RTMPose; all of xycd's own packages (PyAV,
dask, xarray, netCDF4, pydantic) add whole frames and runs. What is missing is named, and its part is left out.

It writes FOLDER/gpu.json and FOLDER/gpu.md, the table for docs/performance.md. Parts come in order of importance, and
those for which no time is left are named as well.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import itertools
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etl.errors import XycdError
from etl.models.auglift import catalog, depth_anything_weights, openmmlab, random_weights
from etl.models.auglift.depth_anything import DepthAnythingNetwork
from etl.models.auglift.rtmdet import RTMDetNetwork
from etl.models.auglift.rtmpose import RTMPoseNetwork
from etl.models.engines.network import Network, on_torch
from etl.models.engines.torch_runtime import TorchContext

PARTS = ("depth", "pose", "detector")
NETWORKS = ("depth-anything-v2-indoor-large", "rtmpose-l-384x288", "rtmdet-m-person")
TINY = ("depth-anything-v2-indoor-tiny", "rtmpose-t", "rtmdet-nano-person")
BATCHES = (1, 8, 32)
PACKAGES = ("torch", "torchvision", "transformers", "numpy", "cv2", "PIL", "mmdet", "mmpose", "av", "dask")
TIMED_S = 0.5  # of each speed
NORMAL = {"precision": "fp32", "channels_last": False, "compile": False}


@dataclass
class Report:
    """Rows of the table, and what was left out.

    Parameters
    ----------
    deadline : float
        By `time.monotonic`; parts that would begin later are left out.
    """

    deadline: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, part: str, what: str, value: float, unit: str) -> None:
        """Add a row, and print it."""
        self.rows.append({"part": part, "what": what, "value": value, "unit": unit})
        print(f"{part:<32} {what:<58} {value:>10.4g} {unit}", flush=True)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[bool]:
        """Context of a part; whether time is left for it. A package that is missing ends the part alone."""
        try:
            if time.monotonic() > self.deadline:
                self.left_out.append(f"{name}: no time left")
            yield time.monotonic() <= self.deadline
        except (ImportError, RuntimeError, XycdError) as error:
            self.left_out.append(f"{name}: {str(error).splitlines()[0][:200]}")
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if self.left_out and self.left_out[-1].startswith(f"{name}: "):
            print(f"left out: {self.left_out[-1]}", flush=True)

    def table(self, facts: dict[str, Any]) -> str:
        """Rows as Markdown."""
        lines = [f"{key}: {value}" for key, value in facts.items()] + ["", "| part | what | value |", "|---|---|---:|"]
        lines += [f"| {row['part']} | {row['what']} | {row['value']:.4g} {row['unit']} |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- left out: {text}" for text in self.left_out)]) + "\n"


def build(name: str, seed: int = 0) -> Network:
    """A network with random weights whose answers vary, on the CPU."""
    if name.startswith("depth"):
        model = depth_anything_weights.draw(catalog.depth_config(catalog.DEPTH_ESTIMATORS[name]), seed)
        random_weights.enliven_depth(model, seed)
        return DepthAnythingNetwork(model)
    pose = name.startswith("rtmpose")
    entry = (catalog.POSE_ESTIMATORS if pose else catalog.DETECTORS)[name]
    config = openmmlab.read_config(entry.package, entry.config)
    model = openmmlab.build(config, checkpoint=None, seed=seed)
    size = openmmlab.input_size(config)
    (random_weights.enliven_pose if pose else random_weights.enliven_detector)(model, size, seed)
    return (RTMPoseNetwork if pose else RTMDetNetwork)(model, size)


def pictures(network: Network, count: int) -> np.ndarray:
    """Pictures (count, H, W, 3) of the network's input, uint8 or float32 in [0, 255]."""
    example = network.example(1)
    if hasattr(network, "side"):
        example = torch.zeros(1, network.side, network.side, 3)
    drawn = random_weights.pictures((example.shape[2], example.shape[1]), 1, count).permute(0, 2, 3, 1)
    return (drawn * 40 + 120).clamp(0, 255).to(example.dtype).numpy()


def differences(name: str, ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Differences of answers, by what they are of: depth in cm, joints in px of the crop, sides of boxes in px."""
    ours, theirs = ([one.double().cpu() for one in answer] for answer in (ours, theirs))
    if name.startswith("depth"):
        return {"depth, cm": 100 * (ours[0] - theirs[0]).abs()}
    if name.startswith("rtmpose"):  # SimCC has two bins a px
        apart = [(a.argmax(-1) - b.argmax(-1)).double() / 2 for a, b in zip(ours[1:], theirs[1:], strict=True)]
        return {"joints, px": torch.stack(apart).square().sum(0).sqrt()}
    levels = len(ours) // 2
    likely = torch.cat([level.sigmoid().amax(1).flatten() for level in theirs[:levels]]) > 0.3
    sides = [torch.cat([d.abs().amax(1).flatten() for d in map(torch.sub, ours[levels:], theirs[levels:])])]
    return {"boxes, px": sides[0][likely]}


def speed(call: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """Calls a second, after a warm-up."""
    for _ in range(2):
        call()
    synchronize()
    calls, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < TIMED_S:
        call()
        synchronize()
        calls += 1
    return calls / (time.perf_counter() - begun)


def variants(device: torch.device, compiled: bool) -> list[dict[str, Any]]:
    """Settings of torch: fp32 first, then each other one."""
    precisions = ("bf16", "fp16") if device.type == "cuda" else ("bf16",)
    found = [NORMAL, {**NORMAL, "channels_last": True}]
    found += [{**NORMAL, "precision": p, "channels_last": c} for p, c in itertools.product(precisions, (False, True))]
    return found + ([{**NORMAL, "compile": True}, {**found[-1], "compile": True}] if compiled else [])


def words(variant: dict[str, Any]) -> str:
    """A variant in words."""
    return ", ".join([variant["precision"], *(word for word in ("channels_last", "compile") if variant[word])])


def one_network(report: Report, name: str, device: torch.device, *, compiled: bool, batches: Sequence[int]) -> None:
    """Agreement with the CPU, then speed, memory and differences of each variant, of one network."""
    gpu = device.type == "cuda"
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    network = build(name)
    few = pictures(network, 2)
    truth = on_torch(network, TorchContext(torch.device("cpu")))(torch.from_numpy(few))
    plain: tuple[torch.Tensor, ...] | None = None
    for variant in variants(device, compiled):
        with report.part(f"{name}, {words(variant)}") as go:
            if not go:
                continue
            context = TorchContext(device, **variant)
            forward = on_torch(copy.deepcopy(network), context)
            answer = forward(context.send(few))
            if plain is None:
                plain = answer
                for what, apart in differences(name, answer, truth).items():
                    report.add(name, f"{device.type} against CPU: largest {what}", float(apart.max()), "")
            else:
                for what, apart in differences(name, answer, plain).items():
                    report.add(name, f"{words(variant)}: median {what}", float(apart.median()), "")
                    report.add(name, f"{words(variant)}: largest {what}", float(apart.max()), "")
            for batch in batches:
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                images = context.send(np.resize(few, (batch, *few.shape[1:])))
                rate = batch * speed(lambda images=images, forward=forward: forward(images), synchronize)
                report.add(name, f"{words(variant)}: batch of {batch}", rate, "images/s")
                if gpu:
                    memory = torch.cuda.max_memory_allocated() / 2**30
                    report.add(name, f"{words(variant)}: memory, batch of {batch}", memory, "GiB")


def whole_frames(report: Report, names: Sequence[str], device: str) -> None:
    """Features of whole frames: the GPU, with inputs made there, against the CPU, with inputs made on it."""
    from etl.config import EstimateSettings
    from etl.models import registry
    from etl.models.base import Frame
    from etl.stages.blocks.chain import estimate_batch
    from schemas.camera import Camera
    from schemas.keys import SequenceKey

    options = dict(zip(PARTS, names, strict=True))
    options |= {"weights": "random", **{f"{part}_runtime": "torch" for part in PARTS}}
    images = (random_weights.pictures((1000, 1002), 2, 4).permute(0, 2, 3, 1) * 40 + 120).clamp(0, 255)
    key, camera = SequenceKey("folder", "one", "walk", 1, "c"), Camera.from_field_of_view(1000, 1002, 55.0)
    boxes = np.array([[300, 200, 700, 900]], np.float32)
    # In the boxes of annotated people, because random weights find people anywhere.
    settings = EstimateSettings.model_validate({"association": "ground_truth_box"})
    found = []
    for where, inputs in (("cpu", "host"), (device, "device")):
        models = registry.build("auglift", **options, device=where, inputs=inputs)
        frames = [Frame(key, i, image, camera) for i, image in enumerate(images.to(torch.uint8).numpy())]
        found.append(estimate_batch(frames, [boxes] * len(frames), models, settings))
    values = np.array([[one.values[0] for one in side] for side in found])
    joints = np.linalg.norm(values[1, :, :, :2] - values[0, :, :, :2], axis=-1)
    report.add("whole frames", "against the CPU: median joint", float(np.median(joints)), "px")
    report.add("whole frames", "against the CPU: largest joint", float(joints.max()), "px")
    same = joints < 1  # the depth of another place is no difference of depth
    depths = 100 * np.abs(values[1, :, :, 3] - values[0, :, :, 3])[same]
    report.add("whole frames", "against the CPU: median depth at joints", float(np.median(depths)), "cm")


def runs(report: Report, names: Sequence[str], device: str, frames: int) -> None:
    """Estimate from JPEG and H.264, end to end, and the share of the time in which the GPU computes."""
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.material import KINDS, prepare
    from etl.config import ModelSettings
    from etl.stages.estimate import estimate_partition

    options = dict(zip(PARTS, names, strict=True))
    options |= {"weights": "random", "device": device, "inputs": "device"}
    options |= {f"{part}_runtime": "torch" for part in PARTS}
    material = prepare(frames)
    for precision in ("fp32", "bf16") if device == "cuda" else ("fp32",):
        models = ModelSettings(set="auglift", options={**options, "precision": precision})
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                settings = {"partition_frames": frames, "embeddings": {"enabled": True}}
                job = material.job(kind, Path(folder), models, **settings)
                estimate_partition(job.partitions[0], job.estimator)  # builds the networks
                activities = [ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
                begun = time.perf_counter()
                with profile(activities=activities) if device == "cuda" else contextlib.nullcontext() as profiled:
                    for partition in job.partitions[1:]:
                        estimate_partition(partition, job.estimator)
                        done = time.perf_counter()
                count = sum(partition.frames for partition in job.partitions[1:])
                report.add(f"estimate, {precision}", f"{kind}, with embeddings", count / (done - begun), "frames/s")
                if profiled is not None:
                    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
                    report.add(f"estimate, {precision}", f"{kind}: GPU busy", 100 * busy / (done - begun), "%")
                    report.add(f"estimate, {precision}", f"{kind}: its kernels alone", count / busy, "frames/s")


def facts(device: torch.device) -> dict[str, Any]:
    """Versions and device."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            versions[name] = str(getattr(__import__(name), "__version__", "?"))
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    )
    return {"device": where, "python": platform.python_version(), "cuda": torch.version.cuda, "versions": versions}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="the smallest networks")
    parser.add_argument("--networks", nargs="+", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--out", type=Path, default=Path("gpu-report"))
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    device = torch.device(options.device)
    TorchContext.choose(options.device)  # sets what a run sets
    report = Report(time.monotonic() + 60 * options.minutes)
    names = TINY if options.tiny else NETWORKS
    known = facts(device)
    print(json.dumps(known, indent=1), flush=True)
    with report.part("whole frames") as go:
        if go:
            whole_frames(report, names, options.device)
    with report.part("runs") as go:
        if go:
            runs(report, names, options.device, frames=8 if options.tiny else 256)
    for name in options.networks or names:
        with report.part(name) as go:
            if go:
                one_network(report, name, device, compiled=not options.no_compile, batches=options.batches)
    options.out.mkdir(parents=True, exist_ok=True)
    summary = {**known, "rows": report.rows, "left_out": report.left_out}
    (options.out / "gpu.json").write_text(json.dumps(summary, indent=1) + "\n")
    (options.out / "gpu.md").write_text(report.table(known))
    return 0


if __name__ == "__main__":
    sys.exit(main())
