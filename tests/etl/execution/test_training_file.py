from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from etl.execution.training_file import TrainingFile
from etl.stages.join import SequenceFiles
from etl.store.partition import Receipt


def describe(folder: Path, checksum: str = "aa", **settings: str) -> TrainingFile:
    features = folder / "features.nc"
    receipts = {features: Receipt("id", "features.nc", 1, 1, {"ok": 1}, 1, checksum, 0.0, "")}
    pairs = [SequenceFiles(folder / "annotation.nc", (features,))]
    return TrainingFile.of(folder / "out.npz", pairs, receipts, {"part": "truth", **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "annotation.nc").write_bytes(b"a")
    (tmp_path / "out.npz").write_bytes(b"rows")
    return tmp_path


def test_a_recorded_file_is_current(folder: Path) -> None:
    assert not describe(folder).is_current()  # written by somebody else, for all we know
    describe(folder).record()
    assert describe(folder).is_current()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "out.npz").write_bytes(b"ro"),
        lambda folder: (folder / "out.npz").unlink(),
        lambda folder: os.utime(folder / "out.npz", (0, 0)),
        lambda folder: (folder / "annotation.nc").write_bytes(b"ab"),
        lambda folder: (folder / ".out.npz.inputs.json").write_bytes(b"{"),
    ],
)
def test_what_has_changed_is_not(folder: Path, change: Callable[[Path], object]) -> None:
    describe(folder).record()
    change(folder)
    assert not describe(folder).is_current()


def test_other_features_and_settings_are_not(folder: Path) -> None:
    describe(folder).record()
    assert not describe(folder, checksum="bb").is_current()
    assert not describe(folder, part="detected").is_current()


def test_folders_count_file_by_file(folder: Path) -> None:
    (folder / "out.npz").unlink()
    (folder / "out.npz").mkdir()
    (folder / "out.npz" / "S.npy").write_bytes(b"S")
    describe(folder).record()
    assert describe(folder).is_current()
    (folder / "out.npz" / "S.npy").write_bytes(b"T2")
    assert not describe(folder).is_current()
