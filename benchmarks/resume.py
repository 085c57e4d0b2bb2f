"""A second run over a finished workspace of Human3.6M's size: what it costs to find that nothing is left to do.

    python -m benchmarks.resume [--store DIR] [--share 1.0]

The store is simulated (benchmarks.simulate) in a temporary folder, or in DIR, where it stays.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Results, Sample, timed
from benchmarks.simulate import simulated
from etl.config import Config

ROUNDS = 3


def command(config: Config, verb: str, *options: str) -> Sample:
    """`xycd VERB` as a person starts it; it must find everything finished."""
    assert config.datasets.h36m is not None
    root = config.datasets.h36m.root
    arguments = [Path(sys.executable).with_name("xycd"), verb, "h36m", "--hz", "50", "--root", root]
    arguments += ["--workspace", config.workspace, *options]
    done: list[subprocess.CompletedProcess[str]] = []
    sample = timed(lambda: done.append(subprocess.run(arguments, capture_output=True, text=True)))
    said = " finished, 0 to do" if verb == "plan" else "nothing to do"
    if said not in done[0].stdout:
        found = f"{done[0].stdout}{done[0].stderr}"
        raise SystemExit(f"xycd {verb} found something to do (a store of older code? remove it):\n{found}")
    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args()
    results = Results("resume")
    start = time.perf_counter()
    with simulated(options.store, options.share) as config:
        results.note(f"store ready after {time.perf_counter() - start:.0f} s")
        for verb, goal in (("plan", None), ("estimate", 10.0)):  # plan first: it would start nothing
            samples = [command(config, verb) for _ in range(ROUNDS)]
            results.add(
                f"xycd {verb} with nothing to do", statistics.median(s.wall for s in samples), "s", at_most=goal
            )
            results.add("  of which processor time", statistics.median(s.cpu for s in samples), "s")
        verified = command(config, "estimate", "--verify")
        results.add("xycd estimate --verify, which opens every file", verified.wall, "s")
    results.finish()


if __name__ == "__main__":
    main()
