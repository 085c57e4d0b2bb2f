from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etl.results.export import write_rows
from etl.results.features import open_features
from etl.results.index import open_index
from etl.results.tables import summary_table
from tests.etl import stores

FRAMES, SEQUENCES = 40, 4
REPOSITORY = Path(__file__).parents[3]


def check(ds: xr.Dataset) -> None:
    """Every row is that of `stores.features_of`; every partition is whole."""
    frame = ds["frame_number"].values
    values = {name: ds["features"].sel(feature=name).values for name in ("confidence", "depth")}
    np.testing.assert_allclose(values["confidence"], np.broadcast_to(0.05 * np.arange(1, 18), (len(frame), 17)))
    np.testing.assert_allclose(values["depth"], np.broadcast_to(4 + frame[:, None] / 100, (len(frame), 17)))
    np.testing.assert_allclose(ds["error_px"].values, 5.0, rtol=1e-4)
    if len(frame):  # before the first file, nobody knows of embeddings
        assert np.isfinite(ds["pose_embedding"].values).all()
    rows = list(zip(ds["camera"].values.tolist(), ds["action"].values.tolist(), (frame // 8).tolist(), strict=True))
    assert all(rows.count(row) == 8 for row in set(rows))


@pytest.mark.parametrize("seed", [1])
def test_a_writer_that_is_killed_at_random_is_never_noticed(tmp_path: Path, seed: int) -> None:
    stores.annotate(tmp_path, stores.keys(subjects=("S1",)), FRAMES)
    command = [sys.executable, "-m", "tests.etl.writer", str(tmp_path), str(seed)]
    seen, indexed, answers = 0, 0, 0
    ends = time.monotonic() + 200
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as writer:
        try:
            while writer.poll() is None:
                assert time.monotonic() < ends, f"{seen} rows, {answers} answers"
                selected = open_features(tmp_path)
                ds = selected.to_xarray(annotations=True, lazy=bool(answers % 2)).load()
                assert not selected.completeness().lost
                assert len(ds["frame_number"]) == selected.completeness().finished >= seen
                seen, answers = len(ds["frame_number"]), answers + 1
                check(ds)
                if answers % 3 == 0:
                    index = open_index(tmp_path).compute()
                    assert len(index) >= max(indexed, seen)
                    assert not index.duplicated(["action", "camera", "frame"]).any()
                    indexed = len(index)
                    table = summary_table(open_features(tmp_path), "joint")
                    assert table.empty or table["frames"].min() >= seen
                    write_rows(open_features(tmp_path), tmp_path / "rows.parquet")
                time.sleep(0.01)
            assert writer.returncode == 0
            lives = int(writer.stdout.read()) if writer.stdout else 0
        finally:
            writer.kill()
    assert lives > 2
    assert answers > 2
    check(open_features(tmp_path).load(annotations=True))
    done = open_features(tmp_path).completeness()
    assert done.complete
    assert (done.finished, done.lost) == (FRAMES * SEQUENCES, ())
    assert len(open_index(tmp_path)) == FRAMES * SEQUENCES
