"""Memory and speed of merge on simulated stores, with embeddings of RTMPose-l's and ViT-L's widths.

    python -m benchmarks.merge [--frames 25000 50000] [--workers N] [--format npy] [--folder DIR]

A full Human3.6M at 25 Hz is --frames 780000: about 36 GB of features and as much of output; the free space is checked.
Gives, for each size, MB/s and the peak resident memory of the merging process, and how far the peaks are apart: memory
doesn't grow with the dataset. Sampled rows must be right. In turn with the last size's merge, as many bytes are written
plainly and synced, which is what the disk gives: to both the system's memory has been given before by then, which on a
virtual machine takes longer than anything else the first time. What is merged was just written, and is in memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Results, cpu_seconds
from etl.stages.merge import SequenceFiles, merge
from schemas import annotation, features
from schemas.keys import SequenceKey

POSE, DEPTH, SEQUENCE, PARTITION = 1024, 256, 2_500, 512
ROW_BYTES = 17 * 2 * (POSE + DEPTH) + 1_500
MEMORY, GROWTH, DISK = 1.0, 50.0, 0.3  # the goals: GB, MB between the sizes' peaks, share of the disk's own speed
BLOCK = np.random.default_rng(0).bytes(8 * 2**20)
ROUNDS = 3


def sequences(frames: int) -> list[tuple[SequenceKey, int]]:
    """Keys and lengths of the simulated sequences."""
    starts = range(0, frames, SEQUENCE)
    return [
        (SequenceKey("h36m", f"S{i:04d}", "Walking", 1, "cam"), min(SEQUENCE, frames - s)) for i, s in enumerate(starts)
    ]


def mark(number: int) -> np.float32:
    """What the x of row `number`'s pelvis is, so that rows can be told apart."""
    return np.float32(number)


def simulate(folder: Path, frames: int) -> list[SequenceFiles]:
    """Write annotations and features of `frames` rows."""
    base = features.mock(frames=PARTITION, statistics=True, pose_channels=POSE, depth_channels=DEPTH)
    pairs, number = [], 0
    for key, length in sequences(frames):
        place = folder / key.path
        place.mkdir(parents=True)
        annotation.mock(key, length).to_netcdf(place / "annotation.nc", engine="netcdf4")
        paths = []
        for first in range(0, length, PARTITION):
            count = min(PARTITION, length - first)
            ds = base.isel(frame=slice(0, count)).copy()
            ds.attrs |= {name: getattr(key, name) for name in ("subject", "action", "subaction", "camera")}
            ds["frame_number"].values[:] = np.arange(first, first + count)
            ds["features"].values[:, 0, 0] = [mark(number + i) for i in range(count)]
            ds["pose_embedding"].values[:, 0, 0] = (np.arange(number, number + count) % 30_000).astype(np.uint16)
            paths.append(place / f"{first:06d}.nc")
            ds.to_netcdf(paths[-1], engine="netcdf4")
            number += count
        pairs.append(SequenceFiles(place / "annotation.nc", tuple(paths)))
    return pairs


def write_plainly(size: int, output: Path) -> None:
    """Write and sync `size` bytes: what the disk gives."""
    with output.open("wb", buffering=0) as file:
        for start in range(0, size, len(BLOCK)):
            file.write(memoryview(BLOCK)[: size - start])
        os.fsync(file.fileno())


def measure(pairs: list[SequenceFiles], output: Path, options: dict, result: Path) -> None:
    """Merge in this process, which is fresh, and write down what it took."""
    start, cpu = time.perf_counter(), cpu_seconds()
    report = merge(pairs, output, **options)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    # Not ru_maxrss, which a new process inherits from the one that started it; that of a worker is at least ours.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = int(status["VmHWM"].split()[0]) * 1024 / 1e6
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    result.write_text(
        json.dumps({"rows": report.rows, "seconds": seconds, "cpu": cpu, "own": own, "children": children})
    )


def check(output: Path, frames: int) -> bool:
    """Whether sampled rows are right; reads an npz member by member."""
    rows = np.random.default_rng(0).integers(0, frames, 200)
    if output.is_dir():
        x = np.load(output / "predicted_keypoints.npy", mmap_mode="r")[rows, 0, 0]
        bits = np.load(output / "rtm_joint_feats.npy", mmap_mode="r")[rows, 0, 0].view(np.uint16)
        return bool((x == rows.astype(np.float32)).all() and (bits == rows % 30_000).all())
    with np.load(output, allow_pickle=False) as file:
        x = file["predicted_keypoints"][rows, 0, 0]
        right = (x == rows.astype(np.float32)).all()
        if output.stat().st_size < 4e9:
            right &= (file["rtm_joint_feats"][rows, 0, 0].view(np.uint16) == rows % 30_000).all()
    return bool(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[25_000, 50_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--format", choices=["npz", "npy"], default="npz")
    parser.add_argument("--folder", type=Path, help="where to simulate; the default is a temporary folder")
    options = parser.parse_args()
    results, peaks = Results("merge"), []
    for frames in options.frames:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="merge-") as name:
            peaks.append(run(Path(name), frames, options, results, last=frames == options.frames[-1]))
    measured = [peak for peak in peaks if peak is not None]
    if len(measured) > 1:
        results.add("difference of the sizes' peaks", max(measured) - min(measured), "MB", at_most=GROWTH)
    results.finish()


def run(folder: Path, frames: int, options: argparse.Namespace, results: Results, *, last: bool) -> float | None:
    """One size; peak memory in MB, None where the disk has no room for it."""
    if 2.1 * frames * ROW_BYTES > shutil.disk_usage(folder).free:
        results.note(f"{frames:,} frames need {2.1 * frames * ROW_BYTES / 1e9:.0f} GB in {folder.parent}: left out")
        return None
    pairs = simulate(folder / "store", frames)
    os.sync()  # or the merge would wait for what was written before
    output, found = folder / "out", folder / "result.json"
    settings = {"format": options.format, "workers": options.workers}

    def merged() -> dict[str, float]:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(pairs, output, settings, found))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)
        return json.loads(found.read_text())

    facts = merged()
    size = sum(file.stat().st_size for file in (output.iterdir() if output.is_dir() else [output]))
    if not check(output, frames):
        raise SystemExit(f"rows of the merged {output.name} are wrong")
    what = f"{frames:,} frames, {size / 1e9:.2f} GB"
    results.add(f"merge of {what}", size / 1e6 / facts["seconds"], "MB/s")
    results.add("its processor time a frame", 1e6 * facts["cpu"] / frames, "us")
    results.add("its memory", facts["own"] / 1e3, "GB", at_most=MEMORY)
    if options.workers > 1:
        results.add("memory of a process that it starts", facts["children"] / 1e3, "GB", at_most=MEMORY)
    if last:
        plain, shares = [], []
        for _ in range(ROUNDS):
            shutil.rmtree(output, ignore_errors=True) if output.is_dir() else output.unlink()
            os.sync()
            begun = time.perf_counter()
            write_plainly(size, output)
            plain.append(time.perf_counter() - begun)
            output.unlink()
            os.sync()
            shares.append(plain[-1] / merged()["seconds"])
        results.add("sequential writing of the disk, as many bytes", size / 1e6 / statistics.median(plain), "MB/s")
        results.add("merge's share of it", statistics.median(shares), at_least=DISK)
    return float(max(facts["own"], facts["children"] if options.workers > 1 else 0.0))


if __name__ == "__main__":
    main()
