"""A run that is asked to stop leaves in every stage; one whose features do not fit is refused."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from etl import pipeline
from etl.config import Config, load
from etl.errors import SpaceError
from etl.execution import steps
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


def test_a_run_whose_features_do_not_fit_is_refused_before_workers_start(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "free_bytes", lambda folder: 0)
    shutil.rmtree(walk.work / "h36m" / "features")
    monkeypatch.setattr("cluster.start", lambda *_, **__: pytest.fail("workers were started"))
    with pytest.raises(SpaceError, match="0 B free"):
        pipeline.run(walk.config())
