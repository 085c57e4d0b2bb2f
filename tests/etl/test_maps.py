"""Feature maps from the configuration to a query: kept on request, resumed, and opened by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import xarray as xr

import cluster
from cluster.config import ClusterConfig
from etl import pipeline
from etl.config import Config, load
from etl.errors import ConfigError, QueryError
from etl.execution.job import DatasetJob
from etl.execution.plan import disk_needed, plan
from etl.execution.resume import inspect_store, reconcile_store
from etl.results.features import Features, open_features
from etl.stages.files import maps
from tests.etl.fakes import map_of

pytest.importorskip("zarr", reason="needs the extra zarr")

FRAMES, SIZE, EMPTY = 10, 4, 5
KEPT = {"keep_maps": True, "depth_map": [5, 5]}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "pics"
    folder.mkdir(parents=True)
    for i in range(FRAMES):
        cv2.imwrite(str(folder / f"{i:02d}.png"), np.full((480, 640, 3), 5 * i, np.uint8))
    return tmp_path / "raw"


def configure(raw: Path, embeddings: Any, **models: Any) -> Config:
    values = {
        "workspace": str(raw.parent / "work"),
        "datasets": {"folder": {"root": str(raw)}},
        "models": {"set": "tests.etl.fakes:build_mapped", "options": {"channels": [6, 4], "empty": [EMPTY]}} | models,
        "estimate": {"partition_frames": SIZE, "embeddings": embeddings},
        "cluster": {"workers": 1},
    }
    return load(None, values)


def opened(config: Config) -> Features:
    return open_features(config.workspace)


def depth_means(number: int) -> np.ndarray:
    """The map of depth, 20 x 15 cells, as 5 x 5."""
    return map_of("depth", 4, number).reshape(4, 5, 3, 5, 4).mean(axis=(2, 4))


def test_maps_are_made_later_resumed_and_queried(raw: Path) -> None:
    plain, keeping = configure(raw, True), configure(raw, KEPT)
    with cluster.start(ClusterConfig(workers=1)) as workers:
        pipeline.run(plain, cluster=workers)
        with pytest.raises(QueryError, match="keep_maps = true"):
            opened(plain).to_xarray(maps=True)
        store = DatasetJob("folder", plain).store
        receipts = store.receipts()
        assert "3 to do, of which 3 for their maps only" in plan(keeping)
        job = DatasetJob("folder", keeping)
        partitions = job.partitions(job.annotation_files())
        bytes_of_maps = FRAMES * maps.bytes_of_row((6, 4), keeping.estimate.embeddings)
        assert bytes_of_maps > FRAMES * 2 * (6 * 12 + 4 * 25)
        both, features = (disk_needed(DatasetJob("folder", c), partitions) for c in (keeping, plain))
        assert both - features == bytes_of_maps
        assert disk_needed(job, partitions, {p.id for p in partitions}) < features

        (summary,) = pipeline.run(keeping, cluster=workers)
        assert not summary.failed
        assert DatasetJob("folder", keeping).store.folder == store.folder, "features don't depend on maps"
        assert {i: r.sha256 for i, r in store.receipts().items()} == {i: r.sha256 for i, r in receipts.items()}
        assert len(store.attempts()) == 6
        assert "3 finished, 0 to do\n" in plan(keeping)

        (lost, *_) = sorted(store.folder.rglob("*.zarr.zip"))
        lost.unlink()
        assert opened(keeping).to_xarray(maps=True)["depth_feature_map"].isnull().sum() > 0
        pipeline.run(keeping, cluster=workers)
        assert len(store.attempts()) == 7, "one partition's maps were gone"
        pipeline.run(keeping, cluster=workers)
        pipeline.run(plain, cluster=workers)
        assert len(store.attempts()) == 7

    ds = opened(keeping).to_xarray(maps=True)
    assert ds.sizes["frame"] == FRAMES
    there = np.isfinite(ds["depth_feature_map"].values).all(axis=(1, 2, 3))
    assert np.flatnonzero(~there).tolist() == [EMPTY]
    assert ds["pose_feature_map"].shape == (FRAMES, 6, 4, 3)
    for row, number in enumerate(ds["frame_number"].values.tolist()):
        if number != EMPTY:
            np.testing.assert_allclose(ds["depth_feature_map"][row], depth_means(number), rtol=1e-3, atol=1e-3)
    assert ds["depth_feature_map"].attrs["layer"] == "the first"
    assert ds["pose_px_to_cell"].sel(cell_axis="row", term="y").shape == (FRAMES,)
    assert "pose_feature_map" not in opened(keeping).to_xarray()

    chosen = opened(keeping).sel(frame=[7, 2, EMPTY], status="ok")
    lazy = chosen.to_xarray(maps=True, variables=["depth_feature_map", "depth_grid"], lazy=True)
    assert lazy["depth_feature_map"].chunks
    assert lazy["frame_number"].values.tolist() == [2, 7]
    assert set(lazy.data_vars) == {"depth_feature_map", "depth_grid"}
    xr.testing.assert_identical(
        lazy.compute(), chosen.to_xarray(maps=True, variables=["depth_feature_map", "depth_grid"])
    )
    np.testing.assert_allclose(lazy["depth_feature_map"][1], depth_means(7), rtol=1e-3, atol=1e-3)


def test_damaged_maps_and_those_of_other_inputs_are_set_aside(raw: Path) -> None:
    config = configure(raw, KEPT)
    pipeline.run(config)
    job = DatasetJob("folder", config)
    partitions = job.partitions(job.annotation_files())
    bad = job.store.folder / partitions[1].path.with_suffix(job.maps_ending)
    bad.write_bytes(bad.read_bytes()[:-100])
    kept = bad.with_name(bad.name.replace(partitions[1].id, "0" * 16))
    kept.write_bytes(b"of a picture that was replaced")

    assert not inspect_store(partitions, job.store, maps=job.maps_ending).todo, "without --verify, its name says so"
    found = inspect_store(partitions, job.store, maps=job.maps_ending, verify=True)
    assert [p.id for p in found.todo] == [partitions[1].id]
    assert "zip" in found.damaged[0]
    reconcile_store(found, partitions, job.store)
    assert bad.with_suffix(".damaged").exists()
    assert not bad.exists()
    assert kept.with_suffix(".superseded").exists()
    assert (job.store.folder / partitions[1].path).exists(), "its features are whole"
    assert len(inspect_store(partitions, job.store, verify=True).finished) == 3

    bad.write_bytes(b"PK")  # a query tells of it, and goes on
    selected = opened(config)
    assert selected.to_xarray(maps=True).sizes["frame"] == FRAMES - SIZE
    assert len(selected.completeness().lost) == 1


@pytest.mark.parametrize("models", ["embedded", "tests.etl.fakes:build"])
def test_a_set_without_maps_is_refused_before_anything_runs(raw: Path, models: str, monkeypatch: Any) -> None:
    from etl.models import registry

    monkeypatch.setattr(registry, "check", lambda *_, **__: None)  # whether its files are here doesn't matter
    config = configure(raw, KEPT, set=models, options={})
    with pytest.raises(ConfigError, match=f"{models}' has none"):
        pipeline.run(config)
    assert not config.workspace.exists()
