from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

from etl.errors import QueryError
from etl.results import export
from etl.results.export import write_rows
from etl.results.features import open_features
from schemas.features import Status, decode_float16
from tests.etl import stores
from tests.etl.cli.test_app import Done, xycd

__all__ = ["xycd"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 sequences of 20 frames; frame 3 failed."""
    root = tmp_path_factory.mktemp("export") / "w"
    stores.estimate(root, stores.annotate(root, stores.keys()), {3: Status.NO_PERSON}, channels=(3, 2))
    return root


@pytest.mark.parametrize("large", [0, 1 << 40])
def test_netcdf(root: Path, tmp_path: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl.results.features.LARGE", large)
    selected = open_features(root).sel(subject="S1")
    write_rows(selected, tmp_path / "a.nc", annotations=True)
    expected = selected.load(annotations=True)
    with xr.open_dataset(tmp_path / "a.nc", engine="netcdf4") as ds:
        for name in expected.variables:
            if name not in ("pose_embedding", "depth_embedding"):
                np.testing.assert_array_equal(ds[name].values, expected[name].values)
        np.testing.assert_array_equal(decode_float16(ds["pose_embedding"].values), expected["pose_embedding"].values)
        assert ds["keypoints_3d"].attrs["units"] == "m"
        assert ds["subject"].values[0] == "S1"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(root: Path, tmp_path: Path, suffix: str) -> None:
    selected = open_features(root).sel(where="confidence < 0.12", frame=slice(2, 9))
    path = tmp_path / f"a{suffix}"
    write_rows(selected, path, annotations=True)
    table = pd.read_csv(path, dtype={"camera": str}) if suffix == ".csv" else pd.read_parquet(path)
    assert len(table) == 8 * 7 * 2
    assert set(table["joint"]) == {"pelvis", "right_hip"}
    assert set(table["frame"]) == {2, 4, 5, 6, 7, 8, 9}
    assert set(table["camera"]) == {"54138969", "55011271"}
    np.testing.assert_allclose(table["depth"], 4 + table["frame"] / 100, rtol=1e-6)
    np.testing.assert_allclose(table["error_px"], 5.0, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_without_rows_have_their_columns(root: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_rows(open_features(root).sel(status="model_error"), path)
    table = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert table.empty
    assert {"subject", "frame", "joint", "x", "depth"} <= set(table.columns)


@pytest.mark.parametrize("strings", [False, True])
def test_parquet_has_the_same_types_whatever_pandas_makes_of_text(root: Path, tmp_path: Path, strings: bool) -> None:
    with pd.option_context("future.infer_string", strings):
        for name, chosen in (("all", {}), ("none", {"status": "model_error"})):
            write_rows(open_features(root).sel(**chosen), tmp_path / f"{name}.parquet")
    schema = pq.read_schema(tmp_path / "all.parquet")
    assert schema == pq.read_schema(tmp_path / "none.parquet")
    assert {str(schema.field(n).type) for n in ("subject", "camera", "split", "status", "joint")} == {"string"}
    assert [str(schema.field(n).type) for n in ("frame", "depth", "joint_valid")] == ["int32", "float", "bool"]
    assert pq.read_table(tmp_path / "all.parquet").num_rows == 160 * 17


@pytest.mark.parametrize("rows", [64, 100, 160, 1000])
def test_zarr(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(export, "_piece_rows", lambda row_bytes: rows)
    selected = open_features(root)
    path = selected.consolidate(tmp_path / "a.zarr", annotations=True)
    with xr.open_zarr(path) as ds:
        assert ds["features"].chunks[0][0] == min(rows, 160)
        assert ds["pose_embedding"].dtype == np.float16
        expected = selected.load(annotations=True)
        xr.testing.assert_equal(ds.load(), expected)
        assert ds.attrs["complete"] == 1
        assert ds.attrs["stage"] == expected.attrs["stage"]
    # A second one takes its place.
    selected.sel(subject="S9").consolidate(path, variables=["features"])
    with xr.open_zarr(path) as ds:
        assert dict(ds.sizes) == {"frame": 80, "joint": 17, "feature": 6}
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_an_empty_selection_is_an_empty_store(root: Path, tmp_path: Path) -> None:
    with xr.open_zarr(open_features(root).sel(status="model_error").consolidate(tmp_path / "a.zarr")) as ds:
        assert ds.sizes["frame"] == 0


def test_pieces_are_bounded() -> None:
    assert export._piece_rows(1) == 8192
    assert export._piece_rows(500) == 8192
    assert export._piece_rows(43_000) == 1024
    assert export._piece_rows(10**9) == 64


def test_something_else_is_not_replaced(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").touch()
    with pytest.raises(QueryError, match="something else"):
        open_features(root).consolidate(tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr" / "thesis.tex").exists()


def test_without_zarr(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(QueryError, match=r"pip install 'xycd\[zarr\]'"):
        open_features(root).consolidate(tmp_path / "a.zarr")


def test_other_suffixes(root: Path, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"\.parquet"):
        write_rows(open_features(root), tmp_path / "a.xlsx")


def test_the_command(root: Path, tmp_path: Path, xycd: Callable[..., Done]) -> None:
    done = xycd("query", "-w", root, "--subject", "S*", "--action", "Walking", "--split", "val", "--group-by", "action")
    assert done.returncode == 0
    header, line, state = done.stdout.strip().splitlines()
    assert header.split()[:5] == ["action", "sequences", "frames", "ok", "failed"]
    assert line.split()[:5] == ["Walking", "2", "40", "38", "2"]
    assert state == "complete: 40 frames in 6 finished partitions, 38 ok"
    output = tmp_path / "rows.csv"
    arguments = ("--frames", "0:9", "--where", "joint == 'head'", "--to", output, "--annotations")
    done = xycd("query", "h36m", "-w", root, "--camera", "54138969", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(output)) == 4 * 10
    done = xycd("query", "-w", root, "--where", "open('x')")
    assert done.returncode == 2
    assert "names, values" in done.stderr
