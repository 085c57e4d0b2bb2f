"""Merge against what scripts do: read one npz a frame, stack, np.savez; and against the disk's own sequential writing.

    python -m benchmarks.npz [--frames 8000] [--rounds 5] [--folder DIR]

With embeddings of RTMPose-l's and ViT-L's widths. Files were just written, so both read from memory; what each writes
is synced to the disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.harness import Results, Sample, interleaved, median, ratio, timed
from benchmarks.merge import simulate, write_plainly
from etl.stages.merge import SequenceFiles, merge
from schemas.features import decode_float16

FASTER, DISK = 20.0, 0.3  # the goals


def one_npz_a_frame(pairs: list[SequenceFiles], folder: Path) -> list[Path]:
    """The same features as scripts keep them: a compressed npz for every frame."""
    written = []
    for pair in pairs:
        with xr.open_dataset(pair.annotation, engine="netcdf4") as ds:
            truth = {name: ds[name].values for name in ("keypoints_2d", "keypoints_3d", "center", "scale")}
        number = 0
        for path in pair.features:
            with xr.open_dataset(path, engine="netcdf4") as ds:
                features, valid = ds["features"].values, ds["joint_valid"].values
                pose, depth = (decode_float16(ds[f"{name}_embedding"].values) for name in ("pose", "depth"))
            for row in range(len(features)):
                written.append(folder / f"{len(written):07d}.npz")
                np.savez_compressed(
                    written[-1],
                    features=features[row],
                    valid=valid[row],
                    pose=pose[row],
                    depth=depth[row],
                    **{name: values[number] for name, values in truth.items()},
                )
                number += 1
    return written


def merge_npz(paths: list[Path], output: Path) -> None:
    """Read them all, stack, np.savez."""
    frames: dict[str, list[np.ndarray]] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                frames.setdefault(name, []).append(file[name])
    with output.open("wb") as file:
        np.savez(file, **{name: np.stack(values) for name, values in frames.items()})
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; the default is a temporary folder")
    options = parser.parse_args()
    results = Results("npz")
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="npz-"))
    try:
        pairs = simulate(folder / "store", options.frames)
        (folder / "frames").mkdir()
        paths = one_npz_a_frame(pairs, folder / "frames")
        os.sync()
        output = folder / "out.npz"

        def ours() -> None:
            merge(pairs, output, format="npz", workers=1)

        def fresh(work: Callable[[Path], None]) -> Callable[[], Sample]:
            def run() -> Sample:
                output.unlink(missing_ok=True)  # which takes a while, and isn't anybody's work
                return timed(lambda: work(output))

            return run

        ours()
        size = output.stat().st_size
        runs = interleaved(
            {
                "merge": fresh(lambda _: ours()),
                "npz": fresh(lambda path: merge_npz(paths, path)),
                "disk": fresh(lambda path: write_plainly(size, path)),
            },
            options.rounds,
        )
    finally:
        shutil.rmtree(folder)
    results.add("merge against one npz a frame and np.savez", ratio(runs, "npz", "merge"), "x", at_least=FASTER)
    results.add("the same, processor time", ratio(runs, "npz", "merge", "cpu"), "x")
    results.add("merge's share of the disk's sequential writing", ratio(runs, "disk", "merge"), at_least=DISK)
    for name in runs:
        results.add(f"frames a second: {name}", options.frames / median(runs, name), "frames/s")
    results.add("sequential writing of the disk", size / median(runs, "disk") / 1e6, "MB/s")
    results.finish()


if __name__ == "__main__":
    main()
