"""Size and speed of one feature file: 512 frames with statistics and embeddings of RTMPose-l and ViT-L.

    python -m benchmarks.feature_file [--rounds 15] [--folder DIR]

Goals: at most 46 kB a frame, written (with checksum, synced to the disk) and read at 300 MB/s or more on an idle disk.
In the same rounds as many random bytes are written and synced, which is what the disk gives. A file is read just after
it was written, from memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.harness import Results, interleaved, median, ratio
from etl.stages.files.features import write_partition
from etl.store.partition import Partition
from etl.store.workspace import FeatureStore, file_sha256
from schemas import features
from schemas.annotation import key_of

FRAMES = 512
BYTES, SPEED = 46_000, 300.0  # the goals: bytes a frame, MB/s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's folder for such files")
    options = parser.parse_args()
    results = Results("feature_file")
    ds = features.mock(frames=FRAMES, statistics=True, pose_channels=1024, depth_channels=256)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        store = FeatureStore(Path(name))
        partition = Partition(key_of(ds), 0, FRAMES - 1, FRAMES, FRAMES, f"{0:016x}", "a.nc")
        receipt = write_partition(ds, partition, store)
        path, size = store.folder / receipt.path, receipt.bytes
        assert receipt.sha256 == file_sha256(path)
        xr.testing.assert_identical(xr.load_dataset(path, engine="netcdf4"), ds)
        noise = np.random.default_rng(0).bytes(size)

        def in_turn() -> None:
            """What `write_partition` does, one step after the other."""
            ds.to_netcdf(path, engine="netcdf4", format="NETCDF4")
            file_sha256(path)
            with path.open("rb+") as file:
                os.fsync(file.fileno())

        def write_plainly() -> None:
            with (Path(name) / "plain").open("wb") as file:
                file.write(noise)
                file.flush()
                os.fsync(file.fileno())

        works = {
            "write": lambda: write_partition(ds, partition, store),
            "in turn": in_turn,
            "disk": write_plainly,
            "read": lambda: xr.load_dataset(path, engine="netcdf4"),
        }
        runs = interleaved(works, options.rounds)
    results.add("size of a frame in a feature file", size / FRAMES / 1000, "kB", at_most=BYTES / 1000)
    results.add("writing a feature file", size / 1e6 / median(runs, "write"), "MB/s", at_least=SPEED)
    results.add("reading a feature file", size / 1e6 / median(runs, "read"), "MB/s", at_least=SPEED)
    results.add("the disk's own sequential writing", size / 1e6 / median(runs, "disk"), "MB/s")
    results.add("share of it that writing a feature file has", ratio(runs, "disk", "write"), "x")
    results.add("against hashing and syncing one after the other", ratio(runs, "in turn", "write"), "x")
    results.note(
        f"processor time: {1000 * median(runs, 'write', 'cpu'):.0f} ms to write, "
        f"{1000 * median(runs, 'read', 'cpu'):.0f} ms to read {size / 1e6:.1f} MB"
    )
    results.finish()


if __name__ == "__main__":
    main()
