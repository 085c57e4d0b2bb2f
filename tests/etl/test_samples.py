"""Real images and a real video through the whole pipeline with the embedded networks, where the samples are there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etl import pipeline
from etl.config import Config, load
from etl.results.features import open_features
from schemas.features import Status


def configure(raw: Path, work: Path, **options: Any) -> Config:
    values = {
        "workspace": str(work),
        "datasets": {"folder": {"root": str(raw)}},
        "models": {"set": "embedded", "options": options},
        "estimate": {"partition_frames": 128},
    }
    return load(None, values)


@pytest.mark.slow
@pytest.mark.usefixtures("embedded_weights")
def test_the_person_is_found_in_each_real_image(samples: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(samples / "h36m" / "images", raw / "h36m")
    (raw / "3dhp").mkdir()
    for path in (samples / "3dhp").glob("*.jpg"):
        shutil.copy(path, raw / "3dhp")
    assert len(list(raw.rglob("*.jpg"))) == 5
    (summary,) = pipeline.run(configure(raw, tmp_path / "w"))
    assert summary.rows == {"ok": 5}
    assert not summary.troubled
    ds = open_features(tmp_path / "w").load()
    rows = zip(ds["action"].values.tolist(), ds["frame_number"].values.tolist(), strict=True)
    assert len(set(rows)) == 5
    found = ds["features"].sel(feature=["x", "y", "depth"]).values
    assert np.isfinite(found).all()
    assert ((found[..., 2] > 1) & (found[..., 2] < 10)).all()  # all were filmed indoors


@pytest.mark.slow
@pytest.mark.usefixtures("embedded_weights")
def test_all_frames_of_a_real_video_are_in_the_store(samples: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(samples / "video" / "vtest.avi", raw)
    # Without the tiles in which people as small as these are looked for: they would take minutes, and are tested by
    # themselves. Somebody found or not, each frame has its row.
    (summary,) = pipeline.run(configure(raw, tmp_path / "w", tiles="never"))
    assert (summary.sequences, summary.rows.total()) == (1, 795)
    assert not summary.troubled
    ds = open_features(tmp_path / "w").load()
    assert sorted(ds["frame_number"].values.tolist()) == list(range(795))
    ok = ds["status"].values == Status.OK
    assert ok.sum() == summary.rows["ok"]
    assert np.isfinite(ds["features"].sel(feature=["x", "y"]).values).all((1, 2)).tolist() == ok.tolist()
