"""Videos are decoded from copies on the node, at no cost to anything else."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cluster import copies
from cluster.config import StagingConfig
from etl import pipeline
from etl.config import Config, load
from etl.media.frames import DecodedFrame, Media, decode
from etl.results.features import open_features
from etl.stages import staging
from etl.stages.staging import Source, staged
from tests.cluster.small_disk import mounted
from tests.etl.datasets.media import number_of, write_video

FRAMES = 40


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset of one video."""
    return write_video(tmp_path / "raw" / "clips" / "walk.mp4", FRAMES).parents[1]


MEDIA = Media("video", "clips/walk.mp4")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the driver is told."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(staging, "tell", lambda kind, **facts: found.append({"kind": kind, **facts}))
    return found


def config(folder: Path | str, **settings: str) -> StagingConfig:
    return StagingConfig.model_validate({"folder": str(folder), "keep_free": "1K", **settings})


def copies_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".bin", ".part"))


def frames(source: Source, numbers: list[int]) -> list[DecodedFrame]:
    return list(source.decode(numbers, threads=1, max_pixels=10**6))


def test_a_video_is_decoded_from_its_copy(raw: Path, tmp_path: Path, told: list[Any]) -> None:
    with staged(raw, MEDIA, config(tmp_path / "scratch")) as source:
        (copy,) = copies_in(tmp_path / "scratch")
        assert source.copy == copy
        assert copy.read_bytes() == (raw / MEDIA.path).read_bytes()
        assert copy.stat().st_mtime_ns == (raw / MEDIA.path).stat().st_mtime_ns
        assert [number_of(f.image) for f in frames(source, [3, 30]) if f.image is not None] == [3, 30]
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert told == []


@pytest.mark.parametrize("folder", [None, "scratch"])
def test_images_stay_where_they_are(tmp_path: Path, folder: str | None) -> None:
    settings = StagingConfig(folder=folder and str(tmp_path / folder))
    for media in (Media("images", "pics", pattern="{number}.png"), Media("list", "pics", names=("a.png",))):
        with staged(tmp_path, media, settings) as source:
            assert source == Source(tmp_path, media)
    assert not list(tmp_path.iterdir())


def test_messages_name_the_original(raw: Path, tmp_path: Path, told: list[Any]) -> None:
    path = raw / MEDIA.path
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    numbers = list(range(FRAMES + 2))
    expected = list(decode(raw, MEDIA, numbers, threads=1))
    with staged(raw, MEDIA, config(tmp_path / "scratch")) as source:
        assert source.copy is not None
        found = frames(source, numbers)
    assert [f.error for f in found] == [f.error for f in expected]
    assert any(f.error for f in found)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.image, theirs.image)
    assert told == []


@pytest.mark.parametrize("fault", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_copy_that_vanishes_costs_nothing(
    raw: Path, tmp_path: Path, told: list[Any], fault: Callable[[Path], object]
) -> None:
    with staged(raw, MEDIA, config(tmp_path / "scratch")) as source:
        assert source.copy is not None
        fault(source.copy)  # a cleaner of /tmp, at the worst moment
        found = frames(source, list(range(FRAMES)))
    assert [number_of(f.image) for f in found if f.image is not None] == list(range(FRAMES))
    assert [fact["kind"] for fact in told] == ["unstaged"]
    assert "removed" in told[0]["reason"]
    with staged(raw, MEDIA, config(tmp_path / "scratch")) as source:  # and is made again
        assert source.copy is not None
        assert len(copies_in(tmp_path / "scratch")) == 1


def test_a_full_disk_is_no_failure(raw: Path, tmp_path: Path, told: list[dict[str, Any]]) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    path = raw / MEDIA.path
    path.write_bytes(path.read_bytes() + noise)  # behind the video
    with mounted(tmp_path / "disk", kib=100) as disk, staged(raw, MEDIA, config(disk / "scratch")) as source:
        assert source.copy is None
        assert [number_of(f.image) for f in frames(source, [7]) if f.image is not None] == [7]
        assert copies_in(disk) == []
    assert told == [{"kind": "unstaged", "path": MEDIA.path, "reason": told[0]["reason"]}]
    assert "no room" in told[0]["reason"]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_copy_that_fails_is_no_failure(
    raw: Path, tmp_path: Path, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def copy(source: int, target: Path) -> int:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(copies, "_copy", copy)
    with staged(raw, MEDIA, config(tmp_path / "scratch")) as source:
        assert source.copy is None
        assert len(frames(source, [1, 2])) == 2
    assert os.strerror(fault) in told[0]["reason"]
    assert copies_in(tmp_path / "scratch") == []


def test_a_video_that_changes_meanwhile_is_not_staged(
    raw: Path, tmp_path: Path, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = copies._copy

    def copy(source: int, target: Path) -> int:
        copied = real(source, target)
        os.utime(raw / MEDIA.path)
        return copied

    monkeypatch.setattr(copies, "_copy", copy)
    with staged(raw, MEDIA, config(tmp_path / "scratch")) as source:
        assert source.copy is None
    assert "changed" in told[0]["reason"]


def test_variables_are_the_nodes(raw: Path, tmp_path: Path, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XYCD_SCRATCH", str(tmp_path / "scratch"))
    with staged(raw, MEDIA, config("$XYCD_SCRATCH/videos")) as source:
        assert source.copy is not None
        assert (tmp_path / "scratch" / "videos") in source.copy.parents
    monkeypatch.delenv("XYCD_SCRATCH")
    with staged(raw, MEDIA, config("$XYCD_SCRATCH/videos")) as source:
        assert source.copy is None
    assert "isn't set" in told[0]["reason"]


def test_a_missing_video_is_the_decoders_business(raw: Path, tmp_path: Path) -> None:
    media = Media("video", "clips/absent.mp4")
    with staged(raw, media, config(tmp_path / "scratch")) as source:
        found = frames(source, [0])
    assert found == list(decode(raw, media, [0], threads=1))


@pytest.mark.slow
def test_a_run_stages_each_video_once_and_gives_the_same(tmp_path: Path) -> None:
    for name in ("walk", "run"):
        write_video(tmp_path / "raw" / f"{name}.mp4", FRAMES)

    def configured(work: str, folder: Path | None) -> Config:
        return load(
            None,
            {
                "workspace": str(tmp_path / work),
                "datasets": {"folder": {"root": str(tmp_path / "raw")}},
                "models": {
                    "set": "tests.etl.staging_processes:build",
                    "options": {"log": str(tmp_path / f"{work}-copies"), "seconds": 0.01},
                },
                "estimate": {"partition_frames": 5},
                "cluster": {
                    "workers": 2,
                    "staging": {"folder": folder and str(folder), "keep_free": "1K"},
                },
            },
        )

    (tmp_path / "scratch").mkdir()
    (plain,) = pipeline.run(configured("plain", None))
    (near,) = pipeline.run(configured("near", tmp_path / "scratch"))
    assert (plain.ran, near.ran, near.unstaged) == (16, 16, 0)
    assert not (tmp_path / "plain-copies").exists()
    assert sorted(Counter((tmp_path / "near-copies").read_text().split()).values()) == [1, 1]
    assert list((tmp_path / "scratch").iterdir()) == []
    xr.testing.assert_identical(open_features(tmp_path / "near").load(), open_features(tmp_path / "plain").load())
    # With nowhere to go it is said, and costs nothing.
    (tmp_path / "file").touch()
    (failed,) = pipeline.run(configured("far", tmp_path / "file"))
    assert (failed.ran, failed.unstaged, failed.failed) == (16, 2, [])
    assert "not staged: 2 videos" in failed.text()
