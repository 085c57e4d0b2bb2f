"""Where the processor time of a plain loop and of an estimate worker goes, by py-spy.

    python -m benchmarks.profile [--frames 256] [--rate 200] [--top 12]

Each runs pinned to one core while py-spy looks `rate` times a second at its Python frames (a look at native ones too
would take as long as a frame of video); a look counts for the first of PARTS that the stack passes through, from the
innermost frame out. What belongs to none is "other". On the CPU, with the embedded networks. Needs py-spy (`pip install
'.[bench]'`) and the right to look into one's own processes.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks import contenders
from benchmarks.estimate import camera_of
from benchmarks.harness import Results, cores
from benchmarks.material import Material, prepare
from etl.config import ModelSettings
from etl.stages.estimate import estimate_partition

# By what the frames are called or where they are; the innermost that fits decides.
PARTS: dict[str, tuple[str, ...]] = {
    "networks": ("ai_edge_litert/", "tflite", "xnn_", "Invoke"),
    "compressed npz": ("savez", "_savez", "zipfile"),
    "writing": ("write_partition", "_write_and_hash", "to_netcdf"),
    "decoding": ("etl/media/", "read_image", "av/", "simplejpeg"),
    "crops": ("models/geometry", "warpAffine"),
    "descriptor": ("blocks/descriptor", "describe_joints", "blocks/extremes"),
    "decoding answers": ("embedded/decode", "embedded/model_set", "embedded/people"),
    "depth": ("embedded/depth",),
    "other blocks": ("stages/blocks", "stages/estimate"),
}


def part_of(stack: Iterable[str]) -> str:
    """Which of PARTS a stack of frames belongs to; outermost first, as py-spy writes them."""
    for frame in reversed(list(stack)):
        for part, marks in PARTS.items():
            if any(mark in frame for mark in marks):
                return part
    return "other"


def shares(folded: str) -> dict[str, float]:
    """Shares of the parts in py-spy's raw output: a line a stack, frames between semicolons, a count at the end."""
    counts: collections.Counter[str] = collections.Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        counts[part_of(stack.split(";"))] += int(count)
    total = max(counts.total(), 1)
    return {part: count / total for part, count in counts.most_common()}


def tops(folded: str, count: int) -> list[tuple[str, float]]:
    """The innermost frames that were seen most, and their shares."""
    found: collections.Counter[str] = collections.Counter()
    for line in folded.splitlines():
        stack, _, number = line.rpartition(" ")
        found[stack.rsplit(";", 1)[-1]] += int(number)
    total = max(found.total(), 1)
    return [(frame, number / total) for frame, number in found.most_common(count)]


def plain_loop(material: Material) -> None:
    """The script, on the JPEG."""
    paths = [m.image_path(material.root("jpeg"), i) for m in material.media("jpeg") for i in range(material.frames)]
    with tempfile.TemporaryDirectory() as output:
        contenders.script(paths, camera_of(material), Path(output))


def worker(material: Material) -> None:
    """What an estimate worker does with the same frames."""
    with tempfile.TemporaryDirectory() as workspace:
        job = material.job("jpeg", Path(workspace), ModelSettings())
        for partition in job.partitions:
            estimate_partition(partition, job.estimator)


WORKS = {"plain loop": plain_loop, "estimate": worker}


def profile(name: str, frames: int, rate: int) -> str:
    """py-spy's raw output for one of WORKS, which runs in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        command = [Path(sys.executable).with_name("py-spy"), "record", "--format", "raw"]
        command += ["--rate", str(rate), "--output", file.name, "--", sys.executable, "-m", "benchmarks.profile"]
        done = subprocess.run([*command, "--frames", str(frames), "--only", name], capture_output=True, text=True)
        folded = Path(file.name).read_text()
        if not folded:
            raise SystemExit(f"py-spy saw nothing:\n{done.stdout}{done.stderr}")
    # What comes before the work (imports, building the networks) isn't of interest.
    return "\n".join(line for line in folded.splitlines() if WORKS[name].__name__ in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256, help="of each of two sequences")
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--top", type=int, default=12)
    parser.add_argument("--only", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        os.sched_setaffinity(0, {cores()[0]})
        contenders._join(cores()[0], ModelSettings())
        WORKS[options.only](prepare(options.frames))
        return
    prepare(options.frames)
    results = Results("profile")
    for name in WORKS:
        folded = profile(name, options.frames, options.rate)
        for part, share in shares(folded).items():
            results.add(f"{name}: {part}", 100 * share, "%")
        for frame, share in tops(folded, options.top):
            print(f"    {100 * share:5.1f} %  {frame}")
    results.finish()


if __name__ == "__main__":
    main()
