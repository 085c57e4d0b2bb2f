"""Files that a shared disk shows late."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from etl.store import listing as shelf
from etl.store.listing import LATE, PAUSES, Listing, may_be_late, wait_until_visible


class LateDisk:
    """Stands in for `os.scandir` as an NFS client does: names in `hidden` are missing for so many listings."""

    def __init__(self) -> None:
        self.hidden: dict[str, int] = {}
        self.listed: Counter[str] = Counter()

    def scandir(self, folder: Path) -> Any:
        self.listed[str(folder)] += 1
        entries = _real(folder)
        seen = [entry for entry in entries if not self._hides(entry.name)]
        entries.close()
        return _Listing(seen)

    def _hides(self, name: str) -> bool:
        left = self.hidden.get(name, 0)
        self.hidden[name] = max(0, left - 1)
        return left > 0


class _Listing:
    def __init__(self, entries: list[os.DirEntry[str]]) -> None:
        self.entries = entries

    def __enter__(self) -> Iterator[os.DirEntry[str]]:
        return iter(self.entries)

    def __exit__(self, *_: object) -> None:
        pass


_real = os.scandir


@pytest.fixture
def no_patience() -> None:
    """Here they are waited for."""


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LateDisk:
    disk = LateDisk()
    monkeypatch.setattr(shelf.os, "scandir", disk.scandir)
    return disk


@pytest.fixture
def files(tmp_path: Path) -> dict[PurePosixPath, int]:
    """Two folders of three files, with their sizes."""
    found = {}
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for number in range(3):
            path = PurePosixPath(folder, f"{number}.nc")
            (tmp_path / path).write_bytes(bytes(10 + number))
            found[path] = 10 + number
    return found


def test_each_folder_is_listed_once(tmp_path: Path, files: dict[PurePosixPath, int], late: LateDisk) -> None:
    there = Listing(tmp_path)
    there.look(path.parent for path in files)
    there.look([PurePosixPath("absent")])
    assert {path: there.size(path) for path in files} == files
    assert there.size(PurePosixPath("absent/0.nc")) is None
    assert set(there.names()) == set(files)
    there.wait_for(files, sleep=lambda _: pytest.fail("nothing is late"))
    assert set(late.listed.values()) == {1}


def test_late_files_are_waited_for_together(tmp_path: Path, files: dict[PurePosixPath, int], late: LateDisk) -> None:
    late.hidden = {"1.nc": 3, "2.nc": 2}
    slept: list[float] = []
    there = Listing(tmp_path)
    there.look({path.parent for path in files})
    there.wait_for(files, sleep=slept.append)
    assert {path: there.size(path) for path in files} == files
    assert slept == list(PAUSES[: len(slept)])
    assert 0 < len(slept) < len(PAUSES)


def test_a_lost_file_is_waited_for_some_seconds_only(
    tmp_path: Path, files: dict[PurePosixPath, int], late: LateDisk
) -> None:
    lost, *others = files
    (tmp_path / lost).unlink()
    slept: list[float] = []
    there = Listing(tmp_path)
    there.look({path.parent for path in files})
    there.wait_for(files, sleep=slept.append)
    assert there.size(lost) is None
    assert all(there.size(path) == files[path] for path in others)
    assert slept == list(PAUSES)
    assert late.listed[str(tmp_path / "b")] == 1  # only the folder that lacks something is looked at again


def test_an_old_size_is_late_too(tmp_path: Path, files: dict[PurePosixPath, int]) -> None:
    path = next(iter(files))
    there = Listing(tmp_path)
    there.look([path.parent])
    (tmp_path / path).write_bytes(bytes(99))  # the client still knew the size before
    there.wait_for({path: 99}, sleep=lambda _: None)
    assert there.size(path) == 99


def test_once_visible(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            path.touch()

    assert wait_until_visible(path, sleep=sleep) == path
    assert pauses == list(PAUSES[:2])
    wait_until_visible(path, sleep=lambda _: pytest.fail("it is there"))
    pauses.clear()
    assert wait_until_visible(tmp_path / "never", sleep=lambda _: None) == tmp_path / "never"


def test_only_what_was_written_lately_may_be_late() -> None:
    assert may_be_late(1000.0, now=1000.0 + LATE / 2)
    assert may_be_late(1000.0, now=1000.0 - LATE / 2)  # the writer's clock may be ahead
    assert not may_be_late(1000.0, now=1000.0 + 2 * LATE)
    assert not may_be_late(0.0)
