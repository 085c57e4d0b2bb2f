"""A run that is asked to stop leaves, whatever it is about; one that lacks space for annotations or outputs waits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from etl import pipeline
from etl.config import Config, load
from etl.errors import SpaceError, WorkspaceError
from etl.execution import steps
from etl.execution.job import Job
from etl.execution.resume import Resume
from etl.stages.progress import Silent
from tests.etl.conftest import Walk


class CtrlC(Silent):
    """Interrupts the run, once, as a stage begins; keeps the notes."""

    def __init__(self, stage: str = "") -> None:
        self.stage, self.notes = stage, list[str]()

    def start(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        if title == self.stage:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)


def two_datasets(walk: Walk, folder: Path, **changes: Any) -> Config:
    """The walk, whose features are there, and one picture."""
    folder.mkdir()
    cv2.imwrite(str(folder / "one.png"), np.zeros((480, 640, 3), np.uint8))
    values = walk.config().model_dump(mode="json", by_alias=True, exclude_none=True)
    return load(None, values, {"datasets": {"folder": {"root": str(folder)}}, "cluster": {"workers": 1}}, changes)


@pytest.mark.parametrize("stage", ["annotate", "estimate", "merge"])
def test_a_stop_is_heard_in_every_stage_and_ends_the_whole_run(walk: Walk, tmp_path: Path, stage: str) -> None:
    report = CtrlC(stage)
    summaries = pipeline.run(two_datasets(walk, tmp_path / "pictures"), report=report)
    assert [(s.dataset, s.stopped) for s in summaries] == [("h36m", True), ("folder", True)]
    assert report.notes[0] == "Finishing what is running; Ctrl-C again leaves at once."
    assert not list(walk.work.glob("training/*_xycd_*"))
    assert not (walk.work / "folder").exists()


@pytest.mark.parametrize("step", ["etl.stages.annotate.annotate", "etl.stages.merge.merge"])
def test_annotate_and_merge_wait_for_space(walk: Walk, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    module, _, name = step.rpartition(".")
    real, calls = getattr(__import__(module, fromlist=[name]), name), list[str]()

    def full_at_first(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            raise SpaceError("Disks have room.", "the disk is full", "Free some.")
        return real(*arguments, **options)

    monkeypatch.setattr("etl.store.space.FIRST_PAUSE", 0.01)
    monkeypatch.setattr(step, full_at_first)
    report = CtrlC()
    (summary,) = pipeline.run(walk.config(), report=report)
    assert len(calls) == 2
    assert "waiting for space: the disk is full" in report.notes
    assert [path.name for path in summary.outputs] == ["h36m_xycd_train.npz"]


@pytest.mark.parametrize(("finished", "patience", "goes_on"), [(1, 60, True), (1, 0, False), (0, 60, False)])
def test_a_resumed_run_waits_on_a_full_disk(
    walk: Walk, monkeypatch: pytest.MonkeyPatch, finished: int, patience: int, goes_on: bool
) -> None:
    monkeypatch.setattr(steps, "free_bytes", lambda folder: 0)
    config = walk.config()
    cluster = config.cluster.model_copy(update={"wait_for_space": patience})
    job, report = Job("h36m", config.model_copy(update={"cluster": cluster})), CtrlC()
    partitions = job.partitions(job.annotation_files())
    receipts = job.store.receipts()
    resume = Resume(finished={p.id: receipts[p.id] for p in partitions[:finished]}, todo=partitions[finished:])
    if goes_on:
        steps._check_space(job, resume, report)
        assert "0 B free: the run waits" in report.notes[0]
    else:
        with pytest.raises(WorkspaceError, match="must fit"):
            steps._check_space(job, resume, report)
