from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import etl
from etl.stages.files.npz import ArrayFolder, NpzWriter
from schemas import xycd
from schemas.errors import SchemaError


def write(arrays: dict[str, np.ndarray], path: Path) -> Path:
    """As merge writes it."""
    writer_class = NpzWriter if path.suffix == ".npz" else ArrayFolder
    shapes = {name: (values.shape, values.dtype) for name, values in arrays.items() if name != "metadata"}
    with writer_class(path, shapes) as writer:
        from etl.stages.files.npz import RowWriter

        with RowWriter(writer.members) as rows:
            writer.record([rows.write(name, 0, arrays[name]) for name in shapes])
        writer.append("metadata", arrays["metadata"])
    return path


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return xycd.mock(7, statistics=True, pose_channels=5, depth_channels=3)


@pytest.mark.parametrize("name", ["a.npz", "a"])
def test_arrays_are_mapped_and_labelled(arrays: dict[str, np.ndarray], tmp_path: Path, name: str) -> None:
    ds = etl.open_xycd(write(arrays, tmp_path / name))
    assert ds.sizes["row"] == 7
    for key, values in arrays.items():
        if key == "metadata":
            assert json.loads(ds.attrs["metadata"]) == json.loads(str(values))
            continue
        np.testing.assert_array_equal(ds[key].values, values)
        assert isinstance(ds[key].variable._data, np.memmap), key
        assert not ds[key].values.flags.writeable
        assert ds[key].attrs["units"] == xycd.KEYS[key].unit
        assert ds[key].values.ctypes.data % 64 == 0
    assert set(ds.coords) >= {"imgname", "subject", "action", "subaction", "camera", "frame", "person", "joint"}
    depth = ds["xycd"].sel(joint="left_knee", xycd_column="depth")
    np.testing.assert_array_equal(depth.values, arrays["predicted_da_depth"][:, 5])
    np.testing.assert_array_equal(
        ds["summary_casp_descriptor_10d"].sel(summary_column="q10"), arrays["summary_casp_descriptor_10d"][..., 4]
    )
    assert ds["dav2_joint_feats"].dims == ("row", "joint", "depth_channel")
    assert ds["center"].dims == ("row", "image_axis")


def test_columns_say_which_extremes_they_hold(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert "q10" in etl.open_xycd(write(arrays, tmp_path / "a.npz"))["vector_column"]
    arrays["metadata"] = np.array(json.dumps({"casp_extremes": "minmax"}))
    columns = etl.open_xycd(write(arrays, tmp_path / "b.npz"))["vector_column"].values.tolist()
    assert len(set(columns)) == 19
    assert "depth_min" in columns
    assert "q10" not in columns


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_that_numpy_wrote(arrays: dict[str, np.ndarray], tmp_path: Path, save: object) -> None:
    arrays["S"] = np.asfortranarray(arrays["S"])
    save(tmp_path / "a.npz", **arrays, other=np.arange(14).reshape(7, 2))  # type: ignore[operator]
    ds = etl.open_xycd(tmp_path / "a.npz")
    for key in set(arrays) - {"metadata"}:
        np.testing.assert_array_equal(ds[key].values, arrays[key])
    assert ds["other"].shape == (7, 2)


def test_no_rows(tmp_path: Path) -> None:
    arrays = {n: v if n == "metadata" else v[:0] for n, v in xycd.mock(3).items()}
    np.savez(tmp_path / "a.npz", **arrays)
    assert etl.open_xycd(tmp_path / "a.npz").sizes["row"] == 0


def test_pickles_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays, other=np.array([{}] * 7, object))
    with pytest.raises(SchemaError, match="allow_pickle"):
        etl.open_xycd(tmp_path / "a.npz")


@pytest.mark.parametrize("damage", ["text", "truncated", "missing key", "absent", "shapes", "header"])
def test_other_files_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    if damage == "missing key":
        del arrays["xycd"]
    if damage == "shapes":
        arrays["xycd"] = arrays["xycd"][:3]
    if damage != "absent":
        np.savez(path, **arrays)
    if damage == "text":
        path.write_text("no zip")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    if damage == "header":  # an array that claims to be longer than its member
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        content["scale.npy"] = content["scale.npy"].replace(b"(7,)", b"(9,)")
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    with pytest.raises(SchemaError):
        etl.open_xycd(path)
