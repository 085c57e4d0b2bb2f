from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from etl.datasets.folder import Folder, natural
from etl.errors import DatasetError
from etl.media.frames import Media, decode, frame_count
from schemas import annotation
from schemas.keys import SequenceKey
from tests.etl.datasets.media import number_of, numbered, write_video


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    write_video(root / "walk.mp4", 7)
    write_video(root / "day 1" / "cam" / "run.AVI", 5, "mpeg4")
    for folder in ("stills", "day 1/cam"):
        for number in (10, 2, 1):
            path = root / folder / f"img{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(simplejpeg.encode_jpeg(numbered(number)))
    (root / "stills" / "notes.txt").write_text("")
    (root / ".cache").mkdir()
    (root / ".cache" / "thumb.jpg").write_bytes(b"")
    (root / "stills" / ".hidden.jpg").write_bytes(b"")
    return root


def test_each_video_and_each_folder_of_images_is_a_sequence(tree: Path) -> None:
    reader = Folder(tree)
    found = {(s.key.subject, s.key.action): s.media for s in reader.sequences()}
    images = ("img1.jpg", "img2.jpg", "img10.jpg")
    assert found == {
        ("root", "walk.mp4"): Media("video", "walk.mp4"),
        ("day 1/cam", "run.AVI"): Media("video", "day 1/cam/run.AVI"),
        ("day 1", "cam"): Media("list", "day 1/cam", names=images),
        ("root", "stills"): Media("list", "stills", names=images),
    }
    keys = [s.key for s in reader.sequences()]
    assert keys == sorted(keys)
    assert all((key.dataset, key.subaction, key.camera) == ("folder", 0, "0") for key in keys)
    assert reader.notes() == ["1 files are neither images nor videos by their names: stills/notes.txt."]


def test_rows_are_all_frames_without_ground_truth(tree: Path) -> None:
    reader = Folder(tree)
    for sequence in reader.sequences():
        ds = annotation.validate(reader.annotate(sequence))
        assert not annotation.has_ground_truth(ds)
        assert ds["frame_number"].values.tolist() == list(range(frame_count(tree, sequence.media)))
        assert not ds["valid_annotation"].values.any()
        assert ds.attrs["split"] == "all"
        assert annotation.camera_of(ds) is None
        assert ds.attrs["rate_hz"] == (50 if sequence.media.kind == "video" else 0)
        shown = [
            number_of(f.image) for f in decode(tree, sequence.media, ds["frame_number"].values) if f.image is not None
        ]
        assert shown == ([1, 2, 10] if sequence.media.kind == "list" else list(range(len(ds["frame_number"]))))


def test_an_unreadable_video_costs_itself(tree: Path) -> None:
    (tree / "walk.mp4").write_bytes(b"")
    reader = Folder(tree)
    bad = next(s for s in reader.sequences() if s.key.action == "walk.mp4")
    with pytest.raises(DatasetError, match=r"walk\.mp4 must be a readable video"):
        reader.annotate(bad)
    good = next(s for s in reader.sequences() if s.key.action == "run.AVI")
    assert reader.annotate(good).sizes["frame"] == 5


@pytest.mark.parametrize("name", ["{number}.mp4", "a{b}.mp4", "100%.mp4"])
def test_odd_names_survive(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, 2)
    reader = Folder(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    assert annotation.imgname_of(ds).tolist() == [f"{name}/000000", f"{name}/000001"]


def test_long_names_in_other_scripts(tmp_path: Path) -> None:
    folder = "視頻" * 30  # 180 bytes
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.png").write_bytes(b"x")
    (sequence,) = Folder(tmp_path).sequences()
    (tmp_path / "workspace" / sequence.key.path).mkdir(parents=True)
    assert SequenceKey.from_path("folder", sequence.key.path) == sequence.key


def test_paths_too_long_for_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path.joinpath("x" * 150, "y" * 150, "clip.mp4")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="at most 255 bytes") as caught:
        Folder(tmp_path).sequences()
    assert "clip.mp4" in caught.value.found


@pytest.mark.parametrize("name", [b"caf\xe9/a.jpg", b"day/caf\xe9.mp4", b"day/caf\xe9.jpg"])
def test_names_that_are_not_utf_8_are_refused(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir()
    path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="must be UTF-8") as caught:
        Folder(tmp_path).sequences()
    assert r"caf\xe9" in caught.value.found


def test_files_that_are_not_read_may_have_any_name(tree: Path) -> None:
    (tree / os.fsdecode(b"caf\xe9.txt")).touch()
    assert Folder(tree).sequences()
    assert r"caf\xe9.txt, stills/notes.txt" in Folder(tree).notes()[0]


def test_folders_that_cannot_be_read_are_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: Any) -> Any:  # as the system does, but root may read everything
        if str(path).endswith("stills"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "stills" not in {s.key.action for s in Folder(tree).sequences()}
    assert Folder(tree).notes() == ["1 folders can't be read: stills."]
    (tree / "walk.mp4").unlink()
    (tree / "day 1").rename(tree / ".day 1")
    with pytest.raises(DatasetError, match="must have images") as caught:
        Folder(tree).sequences()
    assert "1 folders can't be read" in caught.value.found


def test_images_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (sequence,) = Folder(tmp_path).sequences()
    assert (sequence.key.subject, sequence.key.action, sequence.media.path) == ("root", "root", ".")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "b.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="Rename"):
        Folder(tmp_path).sequences()


def test_an_empty_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DatasetError, match="must have images"):
        Folder(tmp_path).sequences()
    with pytest.raises(DatasetError, match="no such folder"):
        Folder(tmp_path / "none").sequences()


@given(st.lists(st.text(min_size=1)))
def test_natural_order_is_total(names: list[str]) -> None:
    assert sorted(set(names), key=natural) == sorted(sorted(set(names)), key=natural)


def test_natural_order_counts() -> None:
    assert sorted(["f10", "F9", "f2", "a"], key=natural) == ["a", "f2", "F9", "f10"]


def test_real_samples(samples: Path) -> None:
    reader = Folder(samples)
    frames = {s.media.path: frame_count(samples, s.media) for s in reader.sequences()}
    assert frames["video/vtest.avi"] == 795
    assert frames["3dhp"] == 2
    assert sum(frames.values()) == 795 + 2 + 3
    assert np.all([s.split == "all" for s in reader.sequences()])
