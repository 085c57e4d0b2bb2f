"""Rows of one sequence: copies of embeddings, and memory."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from etl.stages.files.row_writer import RowWriter
from etl.stages.merge import merge
from schemas import annotation, features
from schemas.features import Status
from tests.etl.stages.test_merge import FIRST, Store, fail, load, part


@pytest.mark.parametrize("stored", ["plain", "compressed", "big-endian"])
def test_embeddings_are_copied_where_their_bytes_follow_each_other(tmp_path, monkeypatch, stored):
    copied = []
    copy = RowWriter.copy

    def counted(self, key, start, count, source, offset):
        copied.append((key, start, count))
        return copy(self, key, start, count, source, offset)

    monkeypatch.setattr(RowWriter, "copy", counted)
    monkeypatch.setattr(
        "etl.stages.files.row_writer._PIECE", 1000
    )  # less than what is copied, and no multiple of a row
    store = Store(tmp_path / "store")
    parts = [part(FIRST, range(first, first + 40), seed=first, pose_channels=6, depth_channels=3) for first in (0, 40)]
    fail(parts[1], 5, Status.NO_PERSON)
    pair = store.add(FIRST, parts, annotation.mock(FIRST, 80))
    for path in pair.features if stored != "plain" else ():
        with h5py.File(path, "r+") as file:
            for name in features.EMBEDDINGS:
                values = file[name][()]
                del file[name]
                if stored == "compressed":
                    file.create_dataset(name, data=values, compression="gzip")
                else:
                    file.create_dataset(name, data=values.astype(">u2"))
    merge(store.pairs, tmp_path / "a.npz")
    keys = ["rtm_joint_feats", "dav2_joint_feats"]
    # Of the second file a row isn't ok.
    assert sorted(copied) == (sorted((key, 0, 40) for key in keys) if stored == "plain" else [])
    found = load(tmp_path / "a.npz")
    for variable, key in zip(features.EMBEDDINGS, keys, strict=True):
        expected = features.decode_float16(np.concatenate([ds[variable].values for ds in parts]))
        expected[45] = 0
        np.testing.assert_array_equal(found[key], expected)


# VmHWM and not ru_maxrss, which a new process inherits from the one that started it. Rows are read in small parts, so
# that what is being read and what waits to be written are both there in full, even in the small merge.
PEAK = """
import sys
from pathlib import Path
from etl.stages import sequence_rows
from etl.stages.merge import SequenceFiles, merge
sequence_rows._CHUNK_BYTES = 4 << 20
annotation, features, rows = Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir()), int(sys.argv[4])
report = merge([SequenceFiles(annotation, tuple(features))], Path(sys.argv[3]))
assert report.ok == rows
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = []
    for frames in (1024, 3072):
        folder = tmp_path / str(frames)
        (folder / "features").mkdir(parents=True)
        annotation.mock(FIRST, frames).to_netcdf(folder / "annotation.nc")
        for first in range(0, frames, 512):
            path = folder / "features" / f"{first:06d}.nc"
            part(FIRST, range(first, first + 512), pose_channels=1024, depth_channels=256).to_netcdf(path)
        arguments = [folder / "annotation.nc", folder / "features", folder / "out.npz", frames]
        done = subprocess.run([sys.executable, "-c", PEAK, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert (folder / "out.npz").stat().st_size > 3072 * 43_520
    assert max(peaks) < 400
    assert peaks[1] - peaks[0] < 25  # of 85 MB that the output grew by
