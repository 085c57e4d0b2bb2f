"""What `xycd plan` says before a run is what the run then does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cluster.config import ClusterConfig
from etl import pipeline
from etl.config import Config, load
from etl.demo.raw_media import write_video
from etl.execution import plan as planning
from etl.execution.job import DatasetJob
from etl.execution.plan import expected_partitions, plan, training_bytes
from tests.etl.miniatures import configure, render


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 7 pictures and a video of 9 frames."""
    folder = tmp_path / "pictures" / "a"
    folder.mkdir(parents=True)
    for i in range(7):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((480, 640, 3), np.uint8))
    write_video(folder.parent / "b.mp4", (np.zeros((240, 320, 3), np.uint8) for _ in range(9)), 25)
    return folder.parent


def of_folder(root: Path, work: Path, **changes: Any) -> Config:
    values = {
        "workspace": str(work),
        "datasets": {"folder": {"root": str(root)}},
        "models": {"set": "tests.etl.fakes:build"},
        "estimate": {"partition_frames": 4},
        "cluster": {"workers": 1},
    }
    return load(None, values, changes)


def numbers(text: str, line: str) -> list[int]:
    (found,) = re.findall(rf"^  {line} +(.*)$", text, re.MULTILINE)
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", found)]


def written(text: str) -> set[str]:
    return set(re.findall(r"^  writes +(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["h36m", "3dpw", "3dhp", "fit3d"])
def test_a_fresh_workspace_is_planned_as_it_will_be(raws: Path, tmp_path: Path, name: str) -> None:
    config = configure(name, render(name, raws), tmp_path / "w")
    before = plan(config)
    assert not (tmp_path / "w").exists()
    assert "of which about" in before
    pipeline.run(config, stages=("annotate",))
    after = plan(config)
    assert "of which about" not in after
    # Media are as long as their poses but for what the miniatures plant.
    for line in ("frames", "partitions"):
        for expected, found in zip(numbers(before, line), numbers(after, line), strict=True):
            assert expected == pytest.approx(found, rel=0.2)
    assert numbers(after, "frames")[0] > 0
    assert written(before) == written(after)
    assert f"{name}_xycd_unlabelled" not in before


def test_files_are_named_and_sized_as_merge_writes_them(raws: Path, tmp_path: Path) -> None:
    for format, stages in (("npz", pipeline.STAGES), ("npy", ("merge",))):
        changes = {"merge": {"format": format}, "estimate": {"descriptor": {"statistics": True}}}
        config = configure("h36m", render("h36m", raws), tmp_path, **changes)
        promised = written(plan(config))
        (summary,) = pipeline.run(config, stages=stages)
        assert {str(path) for path in summary.outputs} == promised
        exports = [tmp_path / "training" / f"h36m_{split}.npz" for split in ("train", "val")]
        files = [file for path in summary.outputs for file in ([path] if path.is_file() else path.iterdir())]
        size = sum(file.stat().st_size for file in (*files, *exports))
        rows = sum(len(np.load(path)["S"]) for path in exports)
        assert training_bytes(DatasetJob("h36m", config), rows) == pytest.approx(size, rel=0.5)
        assert ", 0 B for training files" in plan(config)


def test_a_folder_has_features_only(pictures: Path, tmp_path: Path) -> None:
    config = of_folder(pictures, tmp_path / "w")
    text = plan(config)
    assert numbers(text, "frames") == [16, 16]
    assert numbers(text, "partitions") == [0, 5]
    assert written(text) == {"features only: no ground truth"}
    assert "xycd_all" not in text


def test_of_many_sequences_some_are_counted(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = DatasetJob("folder", of_folder(pictures, tmp_path / "w"))
    one, _ = job.reader.sequences()
    looked: list[object] = []
    count = planning.frame_count
    monkeypatch.setattr(planning, "frame_count", lambda *args: looked.append(args) or count(*args))
    found = expected_partitions(job, [one] * 1000)
    assert len(looked) == planning.COUNTED
    assert sum(part.frames for part in found) == 7000


@pytest.mark.parametrize(("hz", "rate", "rows"), [(50, None, 100), (25, None, 50), (10, None, 20), (25, 100.0, 25)])
def test_rows_follow_the_rate_of_images_or_of_the_video(
    raws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hz: int, rate: float | None, rows: int
) -> None:
    """Images of Human3.6M have no rate of their own: they are every frame of videos at 50 Hz."""
    monkeypatch.setattr(planning, "frame_count", lambda *_: 100)
    monkeypatch.setattr(planning, "media_rate", lambda *_: rate)
    root = render("h36m", raws)
    config = load(None, {"workspace": str(tmp_path), "datasets": {"h36m": {"root": str(root), "hz": hz}}})
    job = DatasetJob("h36m", config)
    (sequence, *_) = job.reader.sequences()
    assert sum(part.rows for part in expected_partitions(job, [sequence])) == rows


def test_media_that_cannot_be_opened_are_said(pictures: Path, tmp_path: Path) -> None:
    for path in pictures.rglob("*.png"):
        path.unlink()
    (pictures / "b.mp4").write_bytes(b"")
    text = plan(of_folder(pictures, tmp_path / "w"))
    assert "without those of 1 sequences that can't be counted yet" in text


@pytest.mark.parametrize(
    ("count", "words"),
    [({}, "1 job,"), ({"workers": 3}, "3 jobs,"), ({"minimum": 2, "maximum": 20}, "2 to 20 jobs,")],
)
def test_jobs_are_counted_and_both_scripts_shown(
    pictures: Path, tmp_path: Path, count: dict[str, int], words: str
) -> None:
    config = of_folder(pictures, tmp_path / "w")
    slurm = ClusterConfig.model_validate({"kind": "slurm", "slurm": {"driver": {"walltime": "3-0"}}} | count)
    text = plan(config.model_copy(update={"cluster": slurm}))
    assert f"cluster slurm: {words} each by this script:" in text
    assert text.count("#!/bin/bash") == 2
    _, driver = text.split("With --detach, the driver's job:")
    assert "#SBATCH --time=3-0" in driver
    assert "-m etl.cli run ..." in driver
