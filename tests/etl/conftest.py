"""What tests of results share: a small dataset, annotated and estimated once, and a count of the files opened."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import cluster
from cluster.config import ClusterConfig
from etl import pipeline
from etl.config import Config, load
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from etl.store import netcdf as hdf5

CAMERAS = ("54138969", "55011271")
FRAMES = 40


@dataclass(frozen=True)
class Walk:
    """S1 walking before two cameras at 50 Hz, and the workspace with its annotations and features."""

    raw: Path
    work: Path
    cameras: tuple[str, ...] = CAMERAS
    frames: int = FRAMES

    def config(self, **merge: object) -> Config:
        values = {
            "workspace": str(self.work),
            "datasets": {"h36m": {"root": str(self.raw), "hz": 50}},
            "models": {"set": "etl.demo.truth:build", "options": {"folder": str(self.raw)}},
            "merge": merge,
        }
        return load(None, values)

    def annotation(self, camera: str) -> Path:
        (path,) = self.work.glob(f"h36m/annotations/*/subject=S1/action=Walking/subaction=1/camera={camera}.nc")
        return path

    def features(self, camera: str) -> Path:
        (path,) = self.work.glob(f"h36m/features/*/subject=S1/action=Walking/subaction=1/camera={camera}/*.nc")
        return path


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that tests remove or damage aren't waited for, as late ones on a shared disk are."""
    monkeypatch.setattr("etl.store.listing.PAUSES", ())
    monkeypatch.setattr("etl.results.features.PATIENCE", ())


@pytest.fixture(scope="session")
def shared_walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """To be read only."""
    folder = tmp_path_factory.mktemp("walk")
    walk = Walk(folder / "raw", folder / "work")
    plan = Plan(subjects=("S1",), actions=("Walking",), cameras=CAMERAS, frames=FRAMES, scale=0.3)
    render(walk.raw, plan, workers=2)
    with cluster.start(ClusterConfig(workers=1)) as workers:
        pipeline.run(walk.config(), stages=("annotate", "estimate"), cluster=workers)
    return walk


@pytest.fixture
def walk(shared_walk: Walk, tmp_path: Path) -> Walk:
    """With a workspace of the test's own."""
    shutil.copytree(shared_walk.work, tmp_path / "work")
    return Walk(shared_walk.raw, tmp_path / "work")


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that are opened from here on, through `etl.store.netcdf`."""
    found: list[str] = []
    file = hdf5.h5py.File

    def opening(path: Any, *arguments: Any, **options: Any) -> Any:
        found.append(str(path))
        return file(path, *arguments, **options)

    monkeypatch.setattr(hdf5.h5py, "File", opening)
    return found
