"""Estimate with the reference networks against their limit: the networks alone, plus decoding alone.

    python -m benchmarks.reference [--frames 6] [--rounds 5]

As benchmarks.estimate, with RTMDet-tiny, RTMPose-t and Depth Anything V2 small: random weights, on ONNX
Runtime, as a run on a CPU has them. The limit is harder than there: the networks are called in the batches of
a run on tensors that are there already, so that resizing and cropping count as estimate's own. Needs the environment of
`make openmmlab`.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.estimate import limit_and_estimate, report_limit
from benchmarks.harness import Results, interleaved
from benchmarks.material import prepare
from etl.config import ModelSettings

NETWORKS = {"detector": "rtmdet-tiny", "pose": "rtmpose-t", "depth": "depth-anything-v2-indoor-small"}
RUNTIMES = {f"{part}_runtime": "onnxruntime" for part in NETWORKS}
OPTIONS = {**NETWORKS, **RUNTIMES, "weights": "random", "device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6, help="of each of two sequences")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.disable(logging.INFO)
    results = Results("reference")
    material = prepare(options.frames)
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = ModelSettings(set="auglift", options=OPTIONS, cache=cache)
        works, _ = limit_and_estimate(material, models, stack)
        # What "networks" are called with is there already; and a frame takes seconds, so that one kind must do alone.
        works = {name: work for name, work in works.items() if name not in ("networks on crops", "h264 1")}
        runs = interleaved(works, options.rounds)
        report_limit(results, runs, 2 * options.frames)
    results.finish()


if __name__ == "__main__":
    main()
