"""Cost of sampling embeddings at the joints, beside a loop over joints written from the definition.

    python -m benchmarks.embedding [--rounds 7]

One person a frame, 17 joints, maps of the published sizes: RTMPose-l's last stage (1024 channels, 9 x 12 cells) and
Depth Anything V2's third neck level (256 channels, 37 x 37), by the default rule, the mean of the four cells around the
joint. Frames are sampled in batches of 16, one thread. Needs torch: the environment of `make openmmlab`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import Results, interleaved, median, ratio
from etl.models.auglift.embedding import sample

BATCH = 16
MAPS = {"RTMPose-l": (1024, 12, 9), "Depth Anything V2": (256, 37, 37)}  # channels, rows, columns
RULES = ("nearest_4", "bilinear")
REPEATS = 10


def loop(maps: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Mean of the 2 x 2 cells around each joint, clamped to the map: map after map, joint after joint."""
    rows, columns = maps.shape[-2:]
    found = np.empty((len(maps), cells.shape[1], maps.shape[1]), np.float32)
    for person, (features, joints) in enumerate(zip(maps, cells.tolist(), strict=True)):
        for joint, (x, y) in enumerate(joints):
            left, top = math.floor(x), math.floor(y)
            total = np.zeros(maps.shape[1], np.float32)
            for row in (top, top + 1):
                for column in (left, left + 1):
                    total += features[:, min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
            found[person, joint] = total / 4
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results("embedding")
    rng = np.random.default_rng(0)
    for network, (channels, rows, columns) in MAPS.items():
        maps = rng.standard_normal((BATCH, channels, rows, columns)).astype(np.float32)
        cells = (rng.random((BATCH, 17, 2)) * (columns, rows) - 0.5).astype(np.float32)
        tensors, places = torch.from_numpy(maps), torch.from_numpy(cells)
        np.testing.assert_allclose(
            sample(tensors, places, "nearest_4").numpy(), loop(maps, cells), rtol=1e-5, atol=1e-5
        )

        def sampled(rule: str, tensors: torch.Tensor = tensors, places: torch.Tensor = places) -> Callable[[], None]:
            def run() -> None:
                for _ in range(REPEATS):
                    sample(tensors, places, rule)  # type: ignore[arg-type]

            return run

        def plain(maps: np.ndarray = maps, cells: np.ndarray = cells) -> None:
            loop(maps, cells)

        runs = interleaved({"loop": plain, **{rule: sampled(rule) for rule in RULES}}, options.rounds)
        for rule in RULES:
            each = 1e3 * median(runs, rule, "cpu") / (BATCH * REPEATS)
            results.add(f"a frame's {network} embeddings, {rule}", each, "ms")
        times = ratio(runs, "loop", "nearest_4", "cpu") * REPEATS
        results.add(f"{network} embeddings against a loop over joints", times, "x")
    results.finish()


if __name__ == "__main__":
    main()
