"""Several datasets in one run: what is wrong with one costs the others nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from etl import pipeline
from etl.cli.app import app
from etl.config import Config, load
from etl.errors import DatasetError, MergeError, SpaceError, XycdError
from tests.etl.conftest import Walk


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "one.png"), np.zeros((480, 640, 3), np.uint8))
    return folder


def configure(walk: Walk, pictures: Path, **changes: Any) -> Config:
    values = walk.config().model_dump(mode="json", by_alias=True, exclude_none=True)
    return load(None, values, {"datasets": {"folder": {"root": str(pictures)}}, "cluster": {"workers": 1}}, changes)


def test_a_wrong_layout_is_found_before_anything_runs(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = configure(walk, tmp_path / "empty", workspace=str(tmp_path / "new"))
    with pytest.raises(DatasetError, match="images"):
        pipeline.run(config)
    assert not (tmp_path / "new").exists()


def refuse(*_: object, **__: object) -> None:
    raise MergeError("Sequences fit.", "one that doesn't", "Fix it.")


def test_a_refusal_costs_its_own_dataset(
    walk: Walk, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("etl.alignment.judge.refuse", refuse)
    toml = tmp_path / "xycd.toml"
    toml.write_text(
        f"""
        workspace = "{walk.work}"
        datasets.h36m = {{ root = "{walk.raw}", hz = 50 }}
        datasets.folder.root = "{pictures}"
        models = {{ set = "etl.demo.truth:build", options.folder = "{walk.raw}" }}
        cluster.workers = 1
        """
    )
    done = CliRunner().invoke(app, ["run", "--config", str(toml)])
    assert done.exit_code == 1
    assert "failed: one that doesn't. Sequences fit. Fix it." in done.stdout
    assert "folder: 1 sequences" in done.stdout
    assert not list(walk.work.glob("training/*_xycd_*"))
    assert len(list(walk.work.glob("folder/features/**/*.nc"))) == 1


@pytest.mark.parametrize("alone", [True, False])
def test_an_error_is_raised_where_nothing_else_is_to_do(
    walk: Walk, pictures: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise SpaceError("Disks have room.", "none", "Free some.")

    monkeypatch.setattr("etl.alignment.judge.refuse", refuse if alone else fill)
    config = walk.config() if alone else configure(walk, pictures)
    with pytest.raises(XycdError, match="Sequences fit" if alone else "Disks have room"):
        pipeline.run(config)
