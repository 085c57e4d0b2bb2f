"""Export of annotations in MMPose's formats."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from etl.datasets.human36m.reader import Human36M
from etl.stages.annotate import annotate, describe_joints, export_splits
from etl.stages.files.mmpose import export_mmpose
from schemas import annotation
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17
from schemas.skeletons_raw import MPI_INF_3DHP_17
from tests.etl.datasets.human36m_raw import spread, write_poses, write_sequence
from tests.etl.stages.test_annotate import CAMERA, list_annotations, release

__all__ = ["release"]  # the fixture


class OldNumpyOnly(pickle.Unpickler):
    """Knows only what NumPy had before version 2."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),  # how protocol 2 writes bytes
        }:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return OldNumpyOnly(file).load()


def test_export_for_mmpose(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    annotate(Human36M(release, hz=25), folder)
    files = list_annotations(folder)
    by_split = [[f for f in files if ("S9" in f.as_posix()) == val] for val in (False, True)]
    export = export_mmpose(by_split[0], tmp_path / "mmpose", "h36m", "train")
    assert export is not None
    assert (export.rows, export.left_out) == (24, 0)
    with np.load(tmp_path / "mmpose" / "h36m_train.npz", allow_pickle=False) as file:
        got = {name: file[name] for name in file.files}
    assert {name: (values.dtype.kind, values.shape) for name, values in got.items()} == {
        "imgname": ("U", (24,)),
        "center": ("f", (24, 2)),
        "scale": ("f", (24,)),
        "part": ("f", (24, 17, 3)),
        "S": ("f", (24, 17, 4)),
        "metadata": ("U", ()),
    }
    assert all(values.dtype == np.float64 for name, values in got.items() if name not in ("imgname", "metadata"))
    assert got["imgname"][0] == f"S1/S1_TakingPhoto_1.{CAMERA}/S1_TakingPhoto_1.{CAMERA}_000001.jpg"
    assert got["imgname"][5].endswith("_000011.jpg")
    row = 0
    for path in files:
        with xr.open_dataset(path, engine="netcdf4") as ds:
            if ds.attrs["split"] != "train":
                continue
            n = ds.sizes["frame"]
            assert np.array_equal(got["part"][row : row + n, :, :2], ds["keypoints_2d"].values)
            assert np.array_equal(got["S"][row : row + n, :, :3], ds["keypoints_3d"].values)
            assert np.array_equal(got["center"][row : row + n], ds["center"].values)
            row += n
    assert (got["part"][..., 2] == 1).all()
    assert (got["S"][..., 3] == 1).all()
    val = export_mmpose(by_split[1], tmp_path / "mmpose", "h36m", "val")
    assert val is not None
    assert val.rows == 12
    assert export_mmpose(files, tmp_path / "mmpose", "h36m", "test") is None
    cameras = load_pickle(export.cameras_pickle)
    assert set(cameras) == {(s, c) for s in ("S1", "S9") for c in (CAMERA, "60457274")}
    # Cameras of the split that was exported first are still there.
    listed = json.loads(export.cameras_json.read_text())["cameras"]
    assert {tuple(entry["key"]) for entry in listed} == set(cameras)
    assert all(entry["rotation"] and entry["key"][1] == entry["name"] for entry in listed)


def test_exported_cameras_are_mmposes_own(samples: Path, tmp_path: Path) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    (root / "metadata.xml").write_bytes((samples / "h36m" / "metadata.xml").read_bytes())
    for camera in (CAMERA, "55011271"):
        write_sequence(root, "S7", "Walking", 1, camera, video=None)
    annotate(Human36M(root), tmp_path / "out")
    export = export_mmpose(list_annotations(tmp_path / "out"), tmp_path, "h36m", "train")
    assert export is not None
    with (samples / "h36m" / "cameras.pkl").open("rb") as file:
        golden = OldNumpyOnly(file).load()
    for key, got in load_pickle(export.cameras_pickle).items():
        assert set(got) == set(golden[key])
        for name, value in golden[key].items():
            if (key[1], name) == ("55011271", "h"):
                assert (value, got["h"]) == (1000, 1002)  # MMPose has one size a camera, S7's images are taller
            elif isinstance(value, np.ndarray):
                assert got[name].shape == value.shape
                assert np.abs(got[name] - value).max() < 1e-9
            else:
                assert got[name] == value


def test_export_of_real_poses_has_mmposes_numbers(samples: Path, tmp_path: Path) -> None:
    with np.load(samples / "h36m" / "test_h36m_body3d.npz", allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    root = tmp_path / "raw"
    root.mkdir()
    (root / "metadata.xml").write_bytes((samples / "h36m" / "metadata.xml").read_bytes())
    order = []
    for row, imgname in enumerate(golden["imgname"].tolist()):
        subject, name = re.fullmatch(r"(S\d+)/S\d+_(.*)/.*", imgname).groups()  # type: ignore[union-attr]
        name = name.replace("_", " ") + ".cdf"
        write_poses(root / subject / "Poses_D2_Positions" / name, spread(golden["part"][row : row + 1, :, :2]))
        write_poses(root / subject / "Poses_D3_Positions_mono" / name, spread(golden["S"][row : row + 1, :, :3] * 1000))
        order.append(imgname.rpartition("_")[0])
    annotate(Human36M(root), tmp_path / "out")
    export_mmpose(list_annotations(tmp_path / "out"), tmp_path, "h36m", "train")
    with np.load(tmp_path / "h36m_train.npz", allow_pickle=False) as file:
        got = {name: file[name] for name in file.files}
    assert sorted(name.rpartition("_")[0] for name in got["imgname"].tolist()) == sorted(order)
    for row, name in enumerate(got["imgname"].tolist()):
        true = order.index(name.rpartition("_")[0])
        for key in ("center", "part"):
            assert got[key][row].tolist() == golden[key][true].tolist()
        assert abs(got["scale"][row] - golden["scale"][true]) < 1e-12
        assert np.abs(got["S"][row] - golden["S"][true]).max() < 1e-6


def write_mock(folder: Path, key: SequenceKey, imgname: str, change: Any = None, **options: Any) -> Path:
    ds = annotation.mock(key, **options)
    ds.attrs |= {"imgname": imgname}
    if change:
        change(ds)
    path = folder / f"{key.path}.nc"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.to_netcdf(path)
    return path


def test_export_of_3dhp_is_in_its_own_order(tmp_path: Path) -> None:
    keys = SequenceKey("3dhp", "S1", "Seq1", 0, "0"), SequenceKey("3dhp", "TS1", "TS1", 0, "8")
    train = write_mock(tmp_path, keys[0], "S1_Seq1_Cam0_{number:06d}.jpg")
    test = write_mock(tmp_path, keys[1], "TS1_{number:06d}.jpg", lambda ds: ds.attrs.update(split="test"))
    export = export_mmpose([train, test], tmp_path, "3dhp", "train")
    assert export is not None
    with np.load(export.npz, allow_pickle=False) as file, xr.open_dataset(train, engine="netcdf4") as ds:
        places = [
            MPI_INF_3DHP_17.index(name) for name in ("pelvis", "right_hip", "left_knee", "head_top", "left_wrist")
        ]
        truth = ds["keypoints_3d"].sel(joint=["pelvis", "right_hip", "left_knee", "head", "left_wrist"]).values
        assert places[0] == 14
        assert np.array_equal(file["S"][:, places, :3], truth)
        assert json.loads(str(file["metadata"]))["skeleton"] == "mpi_inf_3dhp17"
        assert file["imgname"][0] == "S1_Seq1_Cam0_000001.jpg"
    cameras = load_pickle(export.cameras_pickle)
    assert set(cameras) == {"S1_Seq1_Cam0", "TS1"}
    assert cameras["S1_Seq1_Cam0"]["name"] == "train_cam_0"
    assert cameras["TS1"]["name"] == "test_cam_1"


def test_unusable_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    def spoil(ds: xr.Dataset) -> None:
        ds["valid_annotation"].values[1] = False
        ds["keypoints_3d"].values[3, 4, 0] = np.nan

    key = SequenceKey("3dpw", "downtown", "walking", 0, "0")
    path = write_mock(tmp_path, key, "downtown_walking_00/image_{frame:05d}_{person}.jpg", spoil, people=2)
    without = SequenceKey("3dpw", "downtown", "running", 0, "0")
    bare = write_mock(tmp_path, without, "x{frame}", ground_truth=False)
    export = export_mmpose([bare, path], tmp_path, "3dpw", "train")
    assert export is not None
    assert (export.rows, export.left_out) == (8, 2)
    with np.load(export.npz, allow_pickle=False) as file:
        assert np.isfinite(file["S"]).all()
        frames = [(int(n[-11:-6]), int(n[-5])) for n in file["imgname"].tolist()]
    assert frames == [(0, 0), (2, 0), (4, 0), *((f, 1) for f in range(5))]


def names_of(path: Path) -> set[str]:
    return {str(entry["key"][0]) for entry in json.loads(path.read_text())["cameras"]}


def test_what_was_exported_of_a_split_that_is_gone_goes_too(release: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "annotations", tmp_path / "training"

    def export(**filters: Any) -> list[str]:
        reader = Human36M(release, **filters)
        annotate(reader, folder)
        files = [folder / f"{s.key.path}.nc" for s in reader.sequences()]
        return [p.name for p in export_splits(folder, files, output, "h36m", complete=reader.takes_all())]

    output.mkdir()
    assert export() == ["h36m_train.npz", "h36m_val.npz"]
    # A run that is about a part says nothing about the others.
    assert export(subjects=["S1"]) == ["h36m_train.npz"]
    assert (output / "h36m_val.npz").is_file()
    assert names_of(output / "h36m_cameras.json") == {"S1", "S9"}
    shutil.rmtree(release / "S9")
    before = (output / "h36m_train.npz").stat().st_mtime_ns
    assert export() == ["h36m_train.npz"]
    assert sorted(p.name for p in output.iterdir()) == ["h36m_cameras.json", "h36m_cameras.pkl", "h36m_train.npz"]
    assert names_of(output / "h36m_cameras.json") == {"S1"}
    assert {key[0] for key in load_pickle(output / "h36m_cameras.pkl")} == {"S1"}
    assert export() == ["h36m_train.npz"]
    assert (output / "h36m_train.npz").stat().st_mtime_ns == before


@pytest.mark.parametrize("dataset", ["h36m", "3dhp"])
def test_joints_of_files_are_described(release: Path, tmp_path: Path, dataset: str) -> None:
    folder = tmp_path / "annotations"
    annotate(Human36M(release), folder)
    about = describe_joints(folder, list_annotations(folder), dataset)
    assert about["joints"] == list(H36M_17.joints)
    assert about["joint_source"] == ["Human3.6M D2_Positions and D3_Positions_mono, 17 of 32 joints"]
    skeleton = {"h36m": H36M_17, "3dhp": MPI_INF_3DHP_17}[dataset]
    assert about["mmpose_skeleton"] == skeleton.name
    moved = [H36M_17.joints[i] for i in about["mmpose_order"]]
    assert moved.index("pelvis") == {"h36m": 0, "3dhp": 14}[dataset]
    export = export_mmpose(list_annotations(folder), tmp_path, "h36m", "train")
    assert export is not None
    with np.load(export.npz, allow_pickle=False) as file:
        metadata = json.loads(str(file["metadata"]))
    assert metadata["joint_source"] == about["joint_source"]
    assert metadata["mmpose_order"] == list(range(17))
