from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr

from benchmarks import annotate as benchmark
from etl.datasets.base import DatasetReader, Sequence
from etl.datasets.folder import Folder
from etl.datasets.human36m.reader import Human36M
from etl.datasets.mpi_inf_3dhp.reader import MpiInf3DHP
from etl.errors import DatasetError, WorkspaceError
from etl.media.frames import Media
from etl.stages.annotate import annotate, identity_of
from schemas import annotation
from schemas.keys import SequenceKey
from tests.etl.datasets.human36m_raw import write_release, write_sequence
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


def list_annotations(folder: Path) -> list[Path]:
    """Annotation files in `folder`, sorted by sequence key."""
    found = [path for path in folder.rglob("*.nc") if not path.name.startswith(".")]
    return sorted(
        found, key=lambda path: SequenceKey.from_path("", path.relative_to(folder).with_suffix("").as_posix())
    )


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in list_annotations(folder)}


def test_every_sequence_gets_a_file_and_a_place_in_the_manifest(release: Path, tmp_path: Path) -> None:
    watch = Watch()
    folder = tmp_path / "annotations"
    manifest = annotate(Human36M(release, hz=50), folder, progress=watch)
    assert manifest.made == 6
    assert manifest.failures == {}
    files = list_annotations(folder)
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
    list_annotations(folder)[0].unlink()
    assert annotate(Human36M(release, hz=10), folder).made == 1


def test_filters_share_a_folder(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    annotate(Human36M(release, subjects=["S1"]), folder)
    manifest = annotate(Human36M(release, subjects=["S9"]), folder)
    assert manifest.made == 2
    assert len(manifest.sequences) == 6
    assert annotate(Human36M(release), folder).made == 0
    assert Human36M(release, subjects=["S1"]).content_options() == Human36M(release).content_options()
    assert Human36M(release, hz=10).content_options() != Human36M(release).content_options()


def test_identities_stay_what_stored_workspaces_hold(tmp_path: Path) -> None:
    for name in ("x.mp4", "p.h5"):
        (tmp_path / name).write_bytes(b"abc")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    key = SequenceKey("h36m", "S1", "Walking", 1, "0")
    sequence = Sequence(key, "train", "Walking 1.0", Media("video", "x.mp4"), None, {"poses": "p.h5"})
    assert identity_of(sequence, Human36M(tmp_path)) == "002929f8e36ea21593557647c8517635"
    assert identity_of(sequence, Human36M(tmp_path, hz=10)) == "74664f85a60622d8e92c933373a89a70"
    chest = MpiInf3DHP(tmp_path, camera_set="chest", cameras=["0"])
    assert identity_of(sequence, chest) == "12932dca28bf9026ca27f25ee06766c6"
    assert identity_of(sequence, Folder(tmp_path)) == "95b5641d2be2019e2b1d284e2a6b1411"


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
    assert len(list_annotations(folder)) == len(manifest.sequences) == 5
    assert json.loads((folder / "manifest.json").read_text())["failures"] == manifest.failures


def test_several_processes_make_the_same(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl.stages.annotate.PER_WORKER", 1)
    one = annotate(Human36M(release), tmp_path / "one", workers=1)
    two = annotate(Human36M(release), tmp_path / "two", workers=2)
    assert one.sequences == two.sequences
    for a, b in zip(list_annotations(tmp_path / "one"), list_annotations(tmp_path / "two"), strict=True):
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
class Broken(DatasetReader):
    """A reader whose second sequence raises something unforeseen, and whose third answers for another."""

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
