from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr

from benchmarks import annotate as benchmark
from etl.datasets.base import Sequence
from etl.datasets.folder import Folder
from etl.datasets.human36m.reader import Human36M
from etl.datasets.mpi_inf_3dhp.reader import MpiInf3DHP
from etl.errors import DatasetError, WorkspaceError
from etl.media.frames import Media
from etl.stages.annotate import (
    annotate,
    describe_joints,
    export_mmpose,
    export_splits,
    options_of,
    read_annotations,
    takes_all,
)
from schemas import annotation
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17
from schemas.skeletons_raw import MPI_INF_3DHP_17
from tests.etl.datasets.human36m_raw import spread, write_poses, write_release, write_sequence
from tests.etl.datasets.mpi_inf_3dhp_raw import write_train

CAMERA = "54138969"


class Watch:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        self.calls.append(("start", title, total, done, unit))

    def advance(self, units: int, failed: int = 0, **facts: Any) -> None:
        self.calls.append(("advance", units, failed))

    def finish(self, summary: str) -> None:
        self.calls.append(("finish", summary))

    def note(self, text: str) -> None:
        self.calls.append(("note", text))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    write_release(root)
    for subject, action in (("S1", "Walking"), ("S1", "Photo"), ("S9", "Walking")):
        for camera in (CAMERA, "60457274"):
            write_sequence(root, subject, action, 1, camera, video=12 if action == "Photo" else None)
    return root


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in read_annotations(folder)}


def test_every_sequence_gets_a_file_and_a_place_in_the_manifest(release: Path, tmp_path: Path) -> None:
    watch = Watch()
    folder = tmp_path / "annotations"
    manifest = annotate(Human36M(release, hz=50), folder, progress=watch)
    assert manifest.made == 6
    assert manifest.failures == {}
    files = read_annotations(folder)
    assert [f.relative_to(folder).as_posix() for f in files] == sorted(manifest.sequences)
    for path in files:
        with xr.open_dataset(path, engine="netcdf4") as ds:
            annotation.validate(ds)
            key = annotation.key_of(ds)
            assert path == folder / f"{key.path}.nc"
            assert ds.sizes["frame"] == 12
            assert json.loads(ds.attrs["provenance"])["identity"]
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts["split"] == {"train": {"sequences": 4, "rows": 48}, "val": {"sequences": 2, "rows": 24}}
    assert counts["action"] == {"Photo": {"sequences": 2, "rows": 24}, "Walking": {"sequences": 4, "rows": 48}}
    assert counts["subject"]["S9"] == {"sequences": 2, "rows": 24}
    assert set(counts["camera"]) == {CAMERA, "60457274"}
    assert watch.calls[0] == ("start", "annotate", 6, 0, "sequences")
    assert watch.calls.count(("advance", 1, 0)) == 6
    assert not list(folder.rglob(".*"))


def test_a_second_run_does_nothing_and_a_change_redoes_its_sequence(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    reader = Human36M(release, hz=50)
    annotate(reader, folder)
    before = stamps(folder)
    assert annotate(reader, folder).made == 0
    assert stamps(folder) == before
    (folder / "manifest.json").write_text("{ damaged")
    again = annotate(reader, folder)
    assert (again.made, len(again.sequences)) == (0, 6)
    path = next(release.glob(f"S9/MyPoseFeatures/D3*/*{CAMERA}.cdf"))
    os.utime(path, ns=(1, 1))
    assert annotate(reader, folder).made == 1
    assert annotate(Human36M(release, hz=10), folder).made == 6
    read_annotations(folder)[0].unlink()
    assert annotate(Human36M(release, hz=10), folder).made == 1


def test_filters_share_a_folder(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    annotate(Human36M(release, subjects=["S1"]), folder)
    manifest = annotate(Human36M(release, subjects=["S9"]), folder)
    assert manifest.made == 2
    assert len(manifest.sequences) == 6
    assert annotate(Human36M(release), folder).made == 0
    assert options_of(Human36M(release, subjects=["S1"])) == options_of(Human36M(release))
    assert options_of(Human36M(release, hz=10)) != options_of(Human36M(release))


def test_a_malformed_sequence_costs_itself(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    reader = Human36M(release)
    annotate(reader, folder)
    path = next(release.glob(f"S9/MyPoseFeatures/D2*/*{CAMERA}.cdf"))
    path.write_bytes(path.read_bytes()[:100])
    watch = Watch()
    manifest = annotate(reader, folder, progress=watch)
    ((name, reason),) = manifest.failures.items()
    assert name == f"subject=S9/action=Walking/subaction=1/camera={CAMERA}"
    assert str(path) in reason
    assert "readable CDF" in reason
    assert ("advance", 1, 1) in watch.calls
    # What was made from the file as it was before is gone.
    assert len(read_annotations(folder)) == len(manifest.sequences) == 5
    assert json.loads((folder / "manifest.json").read_text())["failures"] == manifest.failures


def test_several_processes_make_the_same(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl.stages.annotate.PER_WORKER", 1)
    one = annotate(Human36M(release), tmp_path / "one", workers=1)
    two = annotate(Human36M(release), tmp_path / "two", workers=2)
    assert one.sequences == two.sequences
    for a, b in zip(read_annotations(tmp_path / "one"), read_annotations(tmp_path / "two"), strict=True):
        with xr.open_dataset(a, engine="netcdf4") as left, xr.open_dataset(b, engine="netcdf4") as right:
            xr.testing.assert_identical(left, right)


def test_failures_of_sequences_that_a_run_is_not_about_are_kept(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    (bad,) = release.glob(f"S9/MyPoseFeatures/D2*/*{CAMERA}.cdf")
    content = bad.read_bytes()
    bad.write_bytes(content[:100])

    def listed() -> set[str]:
        return set(json.loads((folder / "manifest.json").read_text())["failures"])

    failed = set(annotate(Human36M(release), folder).failures)
    assert len(failed) == 1
    manifest = annotate(Human36M(release, subjects=["S1"]), folder)
    assert (manifest.failures, set(manifest.earlier)) == ({}, failed)
    assert listed() == failed
    bad.write_bytes(content)
    assert annotate(Human36M(release), folder).failures == {}
    assert listed() == set()
    # A sequence that isn't in the release any more isn't a failure.
    bad.write_bytes(content[:100])
    annotate(Human36M(release), folder)
    shutil.rmtree(release / "S9")
    annotate(Human36M(release, cameras=[CAMERA]), folder)
    assert listed() == set()


def test_another_camera_set_annotates_only_what_is_new(tmp_path: Path) -> None:
    write_train(tmp_path / "raw")
    folder = tmp_path / "annotations"
    assert annotate(MpiInf3DHP(tmp_path / "raw", camera_set="chest"), folder).made == 5
    assert annotate(MpiInf3DHP(tmp_path / "raw"), folder).made == 3
    assert annotate(MpiInf3DHP(tmp_path / "raw", camera_set="all"), folder).made == 6


def test_notes_on_sequences_reach_the_user_and_the_manifest_with_the_checks(release: Path, tmp_path: Path) -> None:
    for camera in (CAMERA, "60457274"):
        write_sequence(release, "S9", "Walking", 1, camera, video=9)
    watch, folder = Watch(), tmp_path / "annotations"
    annotate(Human36M(release, hz=50), folder, progress=watch)
    notes = [text for kind, text, *_ in watch.calls if kind == "note"]
    short = "h36m S9 Walking 1 [54138969]: 12 poses, 9 frames: the last 3 poses are left out"
    assert [note for note in notes if "poses" in note] == [f"{short} (and the like of 1 more sequence)"]
    entry = json.loads((folder / "manifest.json").read_text())["sequences"][
        f"subject=S9/action=Walking/subaction=1/camera={CAMERA}.nc"
    ]
    assert "12 poses, 9 frames: the last 3 poses are left out" in entry["notes"]
    assert entry["checks"]["projection_px"]["max"] < 0.01
    assert entry["checks"]["body"]["sides"] == 1
    again = Watch()
    annotate(Human36M(release, hz=50), folder, progress=again)
    assert not [call for call in again.calls if call[0] == "note"]


@dataclass(frozen=True)
class Broken:
    """A reader whose second sequence raises something unforeseen, and whose third answers for another."""

    root: Path
    name: ClassVar[str] = "h36m"
    splits: ClassVar[tuple[str, ...]] = ("train",)

    def sequences(self) -> list[Sequence]:
        keys = [SequenceKey("h36m", f"S{n}", "Walking", 1, CAMERA) for n in (1, 5, 6)]
        return [Sequence(key, "train", "x", Media("video", "x.mp4")) for key in keys]

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        if sequence.key.subject == "S5":
            raise ZeroDivisionError("in a parser")
        return annotation.mock(SequenceKey("h36m", "S1", "Walking", 1, CAMERA))


def test_whatever_a_reader_raises_costs_its_sequence(tmp_path: Path) -> None:
    manifest = annotate(Broken(tmp_path), tmp_path / "out")
    assert len(manifest.sequences) == 1
    failed = manifest.failures[f"subject=S5/action=Walking/subaction=1/camera={CAMERA}"]
    assert failed == "ZeroDivisionError: in a parser"
    assert "its sequence's key" in manifest.failures[f"subject=S6/action=Walking/subaction=1/camera={CAMERA}"]


@dataclass(frozen=True)
class Deaf(Broken):
    """A reader that fails with what its process does at a Ctrl-C."""

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        raise ZeroDivisionError(f"SIGINT: {signal.getsignal(signal.SIGINT)!r}")


def test_ctrl_c_is_for_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl.stages.annotate.PER_WORKER", 1)
    manifest = annotate(Deaf(tmp_path), tmp_path / "out", workers=2)
    assert set(manifest.failures.values()) == {f"ZeroDivisionError: SIGINT: {signal.SIG_IGN!r}"}


def test_a_missing_dataset_and_a_read_only_folder_stop_the_run(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        annotate(Human36M(tmp_path / "none"), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="writable"):
        annotate(Human36M(release), tmp_path / "file" / "out")


def test_notes_of_the_reader_reach_the_user(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(b"x")
    (tmp_path / "media" / "readme.txt").write_text("")
    watch = Watch()
    manifest = annotate(Folder(tmp_path / "media"), tmp_path / "out", progress=watch)
    assert any(call[0] == "note" and "readme.txt" in call[1] for call in watch.calls)
    assert manifest.notes == json.loads((tmp_path / "out" / "manifest.json").read_text())["notes"]


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
    files = read_annotations(folder)
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
    export = export_mmpose(read_annotations(tmp_path / "out"), tmp_path, "h36m", "train")
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
    export_mmpose(read_annotations(tmp_path / "out"), tmp_path, "h36m", "train")
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
        return [p.name for p in export_splits(folder, files, output, "h36m", complete=takes_all(reader))]

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
    about = describe_joints(folder, read_annotations(folder), dataset)
    assert about["joints"] == list(H36M_17.joints)
    assert about["joint_source"] == ["Human3.6M D2_Positions and D3_Positions_mono, 17 of 32 joints"]
    skeleton = {"h36m": H36M_17, "3dhp": MPI_INF_3DHP_17}[dataset]
    assert about["mmpose_skeleton"] == skeleton.name
    moved = [H36M_17.joints[i] for i in about["mmpose_order"]]
    assert moved.index("pelvis") == {"h36m": 0, "3dhp": 14}[dataset]
    export = export_mmpose(read_annotations(folder), tmp_path, "h36m", "train")
    assert export is not None
    with np.load(export.npz, allow_pickle=False) as file:
        metadata = json.loads(str(file["metadata"]))
    assert metadata["joint_source"] == about["joint_source"]
    assert metadata["mmpose_order"] == list(range(17))


@pytest.mark.slow
def test_a_simulated_release_is_annotated_in_bounded_memory(tmp_path: Path) -> None:
    # A small share of what benchmarks/annotate.py measures, which has 840 sequences.
    sequences = benchmark.write_release(tmp_path / "raw", share=0.03, frames=500)
    assert sequences == 28
    process = multiprocessing.get_context("spawn").Process(
        target=benchmark.measure, args=(tmp_path / "raw", tmp_path / "work", 50, tmp_path / "result.json")
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["sequences"], found["failed"]) == (28, 0)
    assert found["all_bytes"] < 0.6e9
    rows = 0
    for split in ("train", "val"):
        with np.load(tmp_path / "work" / "training" / f"h36m_{split}.npz", allow_pickle=False) as file:
            rows += len(file["scale"])
    assert rows == 28 * 500
