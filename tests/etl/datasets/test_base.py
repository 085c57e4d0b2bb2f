from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import xarray as xr

from etl.datasets.base import DatasetReader, FilteredReader, Sequence
from etl.errors import DatasetError
from etl.media.frames import Media
from schemas import annotation
from schemas.keys import SequenceKey


@dataclass(frozen=True)
class Mine(FilteredReader):
    hz: int = 25

    name: ClassVar[str] = "h36m"
    splits: ClassVar[tuple[str, ...]] = ("train",)

    def sequences(self) -> list[Sequence]:
        keys = [SequenceKey("h36m", subject, "Walking", 1, "0") for subject in ("S5", "S1")]
        return self.select(Sequence(key, "train", str(key), Media("video", "x.mp4")) for key in keys)

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        return annotation.mock(sequence.key)


def test_a_reader_has_options_filters_and_defaults(tmp_path: Path) -> None:
    reader = Mine(str(tmp_path), 50, subjects=["S5"])  # type: ignore[arg-type]
    assert reader.root == tmp_path
    assert reader.notes() == []
    assert reader.content_options() == {"hz": "50"}
    assert not reader.takes_all()
    assert reader.without_filters() == Mine(tmp_path, 50)
    assert reader.without_filters().takes_all()
    assert pickle.loads(pickle.dumps(reader)) == reader
    assert [s.key.subject for s in reader.sequences()] == ["S5"]
    assert [s.key.subject for s in Mine(tmp_path).sequences()] == ["S1", "S5"]


def test_filters_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no sequence of subject S9 among subject S1, S5"):
        Mine(tmp_path, subjects=["S9"]).sequences()


def test_an_incomplete_reader_is_refused_at_once(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Nameless(DatasetReader):
        def sequences(self) -> list[Sequence]:
            return []

        def annotate(self, sequence: Sequence) -> xr.Dataset:
            raise NotImplementedError

    with pytest.raises(TypeError, match="Nameless must set the class attributes name, splits"):
        Nameless(tmp_path)

    @dataclass(frozen=True)
    class Silent(DatasetReader):
        name: ClassVar[str] = "x"
        splits: ClassVar[tuple[str, ...]] = ()

    with pytest.raises(TypeError, match="abstract"):
        Silent(tmp_path)  # type: ignore[abstract]
