"""Cost of the depth descriptor on one core, beside a plain loop written from the formula.

    python -m benchmarks.descriptor [--rounds 7]

17 joints, maps of 1000x1000 px, confidences uniform in 0.4-1; a torso of 100 px as people of Human3.6M have it, with
radii of 4-19 px, and one of 200 px (8-30 px). Frames are described in batches of 16, as estimate does, each with a map
of its own, with workers' settings of memory. The loop visits every joint and every pixel of the square around it; its
results are compared too. Processor time.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Results, cores, interleaved, like_a_worker, median, ratio
from etl.config import DescriptorConfig
from etl.models.base import ArrayDepth
from etl.stages.blocks.descriptor import describe_frames

BATCH = 16  # frames at once
FASTER = 100.0  # the goals: times the loop, and ms a frame by whether statistics are on
MOST = {False: 0.5, True: 1.5}
Inputs = tuple[list[np.ndarray], list[np.ndarray]]  # joints (1, 17, 2) and confidences (1, 17) of frames


def inputs(torso: float, rng: np.random.Generator) -> Inputs:
    """Joints and confidences of a batch."""
    joints = [rng.uniform(150, 850, (1, 17, 2)).astype(np.float32) for _ in range(BATCH)]
    for places in joints:
        places[0, 8] = places[0, 0] + [0, torso if places[0, 0, 1] < 500 else -torso]
    return joints, [rng.uniform(0.4, 1, (1, 17)).astype(np.float32) for _ in range(BATCH)]


def loop(depth: np.ndarray, joints: np.ndarray, confidence: np.ndarray, config: DescriptorConfig) -> np.ndarray:
    """What `describe` computes of depths, by the formula, joint after joint and pixel after pixel."""
    height, width = depth.shape
    rows = []
    scale = math.dist(joints[0], joints[8])
    for (x, y), c in zip(joints.tolist(), confidence.tolist(), strict=True):
        r = min(max(0.04 * scale * (1 + 3 * (1 - min(max(c, 0), 1))) ** 1.5, 3), 30)
        cx, cy = math.floor(x + 0.5), math.floor(y + 0.5)
        found = []
        for v in range(max(cy - int(r), 0), min(cy + int(r) + 1, height)):
            for u in range(max(cx - int(r), 0), min(cx + int(r) + 1, width)):
                if (u - cx) ** 2 + (v - cy) ** 2 <= r * r and math.isfinite(depth[v, u]):
                    found.append(float(depth[v, u]))
        row = [float(depth[cy, cx]), min(found), max(found)]
        if config.statistics:
            values = np.array(found)
            quantiles = np.percentile(values, [10, 25, 50, 75, 90])
            mad = np.median(np.abs(values - quantiles[2]))
            row += [values.mean(), values.std(), *quantiles, mad, quantiles[0] - quantiles[2]]
        rows.append(row)
    return np.array(rows)


def measure(results: Results, maps: Sequence[ArrayDepth], torso: float, rounds: int) -> None:
    """Both kinds of descriptor, for one size of people."""
    joints, confidence = inputs(torso, np.random.default_rng(0))
    for asked in (False, True):
        config = DescriptorConfig(statistics=asked)
        repeats = 10 if asked else 50

        def plain(config: DescriptorConfig = config) -> None:
            for number in range(BATCH):
                loop(maps[number].values, joints[number][0], confidence[number][0], config)

        def described(config: DescriptorConfig = config, repeats: int = repeats) -> None:
            for _ in range(repeats):
                describe_frames(maps, joints, confidence, config)

        for number, (values, _) in enumerate(describe_frames(maps, joints, confidence, config)):
            expected = loop(maps[number].values, joints[number][0], confidence[number][0], config)
            np.testing.assert_allclose(values[0, :, : expected.shape[1]], expected, rtol=1e-5)
        runs = interleaved({"loop": plain, "described": described}, rounds)
        what = f"{'all statistics' if asked else 'point, min, max'}, torso of {torso:.0f} px"
        times = ratio(runs, "loop", "described", "cpu") * repeats
        results.add(f"descriptor against a plain loop: {what}", times, "x", at_least=None if asked else FASTER)
        each = 1e3 * median(runs, "described", "cpu") / (BATCH * repeats)
        results.add(f"a frame's descriptor: {what}", each, "ms", at_most=MOST[asked])
        if not asked:
            pixels = statistics.mean(sum(_pixels(p[0], c[0])) for p, c in zip(joints, confidence, strict=True))
            results.note(f"torso of {torso:.0f} px: {pixels:,.0f} pixels in the 17 discs of a frame")


def _pixels(joints: np.ndarray, confidence: np.ndarray) -> list[float]:
    scale = math.dist(joints[0], joints[8])
    return [math.pi * min(max(0.04 * scale * (1 + 3 * (1 - c)) ** 1.5, 3), 30) ** 2 for c in confidence.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    like_a_worker()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores()[0]})
    results = Results("descriptor")
    rng = np.random.default_rng(0)
    maps = [ArrayDepth(rng.uniform(2, 6, (1000, 1000)).astype(np.float32)) for _ in range(BATCH)]
    for torso in (100.0, 200.0):
        measure(results, maps, torso, options.rounds)
    results.finish()


if __name__ == "__main__":
    main()
