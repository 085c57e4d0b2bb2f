"""The reference networks on torch and on ONNX Runtime, on the CPU. `benchmarks.gpu` is for GPUs.

    python -m benchmarks.runtimes [--rounds 7] [--networks rtmdet-m-person rtmpose-l-384x288 ...]

Random weights; only the networks run, on pictures of the real size, one at a time, with all processors. Without torch
it goes on in the environment of `make openmmlab`, if that is there.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Results, Sample, interleaved, median, ratio

ENVIRONMENT = Path(__file__).parents[1] / ".venv-openmmlab" / "bin" / "python"
FASTER = 3.0  # the goal: RTMPose over torch eager at batch 1
ON_CPU = ("rtmpose-t", "rtmpose-s", "rtmdet-tiny", "depth-anything-v2-indoor-small")
LEAST_S = 0.1  # of a timed run; shorter calls are repeated
PRODUCTS = ("conv", "mm", "attention")  # parts of the names that torch gives them


def part_of(name: str) -> str:
    """Which part of the model set a network is."""
    return "detector" if name.startswith("rtmdet") else "pose" if name.startswith("rtmpose") else "depth"


def pictures(network: Any, batch: int) -> Any:
    """Noise of the network's size; 518 x 518 for depth."""
    import torch

    found = network.example(batch)
    if hasattr(network, "side"):
        found = torch.rand(batch, network.side, network.side, 3) * 255
    return found


def repeated(call: Callable[[], object]) -> Callable[[], Sample]:
    """A run of as many calls as take a measurable time; seconds a call."""
    call()
    started = time.perf_counter()
    call()
    times = max(1, round(LEAST_S / (time.perf_counter() - started)))

    def run() -> Sample:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            call()
        return Sample((time.perf_counter() - wall) / times, (time.process_time() - cpu) / times)

    return run


def on_processors(results: Results, name: str, rounds: int, cache: Path) -> None:
    """One network, one picture at a time, on torch and on ONNX Runtime."""
    import torch

    from cluster.processors import processors
    from etl.models.auglift import build as auglift_build
    from etl.models.auglift.settings import parse
    from etl.models.engines.export import exported, state_hash
    from etl.models.engines.network import on_torch
    from etl.models.engines.onnx_runtime import on_onnxruntime
    from etl.models.engines.torch_runtime import TorchContext

    part = part_of(name)
    settings = parse({part: name, "weights": "random", "device": "cpu"})
    torch.set_num_threads(processors())
    network = auglift_build.network_of(settings, part, None)
    path = exported(name, state_hash(network), lambda: network, cache)
    forwards = {
        "torch": on_torch(network, TorchContext.choose("cpu")),
        "onnxruntime": on_onnxruntime(path, processors()),
    }
    images = pictures(network, 1)
    runs = interleaved(
        {runtime: repeated(functools.partial(forward, images)) for runtime, forward in forwards.items()}, rounds
    )
    for runtime in forwards:
        results.add(f"{name}: a picture on {runtime}", 1e3 * median(runs, runtime), "ms")
    goal = FASTER if part == "pose" else None
    for clock, word in (("wall", ""), ("cpu", ", processor time")):
        factor = ratio(runs, "torch", "onnxruntime", clock)
        results.add(f"{name}: onnxruntime against torch eager{word}", factor, "x", at_least=goal)
    products(results, name, network)
    pairs = zip(forwards["torch"](images), forwards["onnxruntime"](images), strict=True)
    worst = max(float((own - others).abs().max() / own.abs().max()) for own, others in pairs)
    results.add(f"{name}: largest difference of onnxruntime, of the largest value", worst, at_most=1e-4)


def products(results: Results, name: str, network: Any, calls: int = 20) -> None:
    """Where torch's time goes: how much of it is convolutions and products of matrices."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    images = pictures(network, 1)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(images)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(calls):
                network(images)
    times = {event.key: event.self_cpu_time_total / 1e3 / calls for event in profiled.key_averages()}
    within = sum(ms for kind, ms in times.items() if any(word in kind.lower() for word in PRODUCTS))
    results.add(f"{name}: convolutions and products of matrices on torch", within, "ms")
    results.add(f"{name}: all the rest on torch", sum(times.values()) - within, "ms")
    results.add(f"{name}: speed on torch", counter.get_total_flops() / 1e6 / sum(times.values()), "GFLOP/s")


def large_convolution(results: Results) -> None:
    """What these processors reach where nothing but multiplication is to be done."""
    import torch

    from cluster.processors import processors

    torch.set_num_threads(processors())
    images, weights = torch.rand(1, 256, 64, 64), torch.rand(256, 256, 3, 3)
    run = repeated(lambda: torch.nn.functional.conv2d(images, weights, padding=1))
    seconds = min(run().wall for _ in range(5))
    results.add("a large convolution on torch", 2 * weights.numel() * 64 * 64 / 1e9 / seconds, "GFLOP/s")


def elsewhere() -> bool:
    """Go on in the environment of `make openmmlab`, if that is there; whether it was."""
    if not ENVIRONMENT.exists() or Path(sys.executable) == ENVIRONMENT:
        return False
    done = subprocess.run([str(ENVIRONMENT), "-m", "benchmarks.runtimes", *sys.argv[1:]], cwd=ENVIRONMENT.parents[2])
    if done.returncode:
        raise SystemExit(done.returncode)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=ON_CPU)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    needed = ("torch", "mmpose", "onnx", "onnxruntime")
    if any(importlib.util.find_spec(name) is None for name in needed):
        if not elsewhere():
            results = Results("runtimes")
            results.note("The reference networks were left out: torch and its kin aren't here (`make openmmlab`).")
            results.finish()
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.disable(logging.INFO)
    results = Results("runtimes")
    large_convolution(results)
    with tempfile.TemporaryDirectory() as cache:
        for name in options.networks:
            on_processors(results, name, options.rounds, Path(cache))
    results.finish()


if __name__ == "__main__":
    main()
