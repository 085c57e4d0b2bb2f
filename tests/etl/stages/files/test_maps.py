"""Feature maps beside the features: what is in them, and when they are there."""

from __future__ import annotations

import builtins
import errno
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import xarray as xr

from etl.config import EmbeddingSettings, ModelSettings
from etl.errors import ConfigError, WorkspaceError
from etl.stages import estimate
from etl.stages.estimate import Estimator, estimate_partition
from etl.stages.files import maps
from etl.stages.identity import build_models, describe_stage, stage_key
from etl.store.partition import Partition
from etl.store.workspace import FeatureStore
from schemas import features
from schemas import maps as schema
from schemas.features import Status
from schemas.keys import SequenceKey
from tests.etl.fakes import MappedModels, coco_joints, map_of, px_to_cell_of
from tests.etl.stages.test_estimate import annotated, make

pytest.importorskip("zarr", reason="needs the extra zarr")

CHANNELS = (6, 4)
SETTINGS = EmbeddingSettings(keep_maps=True)
MAPPED = "tests.etl.fakes:build_mapped"
BAD, EMPTY = 3, 1


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Six images, one of them not an image."""
    folder = tmp_path / "raw" / "pics"
    folder.mkdir(parents=True)
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((480, 640, 3), 20 * i, np.uint8))
    (folder / f"{BAD}.png").write_bytes(b"")
    return tmp_path / "raw"


def keeping(tmp_path: Path, ds: xr.Dataset | None = None, **options: Any) -> tuple[Estimator, Partition]:
    """Estimator that keeps maps, and the one partition."""
    models = {"channels": list(CHANNELS), "empty": [EMPTY], **options.pop("models", {})}
    embeddings = options.pop("embeddings", {"keep_maps": True})
    estimator, (part,) = make(
        tmp_path, annotated() if ds is None else ds, models=models, embeddings=embeddings, factory=MAPPED, **options
    )
    return estimator, part


def kept(estimator: Estimator, part: Partition) -> Path:
    path = maps.path_of(estimator.features / part.path, estimator.settings.embeddings)
    assert path is not None
    return path


def read(estimator: Estimator, part: Partition) -> xr.Dataset:
    return maps.read(kept(estimator, part))


def the_models(estimator: Estimator) -> MappedModels:
    """The set of this process, with its counts."""
    found = build_models(estimator.models)
    assert isinstance(found, MappedModels)
    return found


def test_maps_are_block_means_with_the_way_to_their_cells(raw: Path, tmp_path: Path) -> None:
    estimator, part = keeping(tmp_path)
    estimate_partition(part, estimator)
    assert kept(estimator, part).name.endswith(".maps-3x4-8x8.zarr.zip")
    ds = read(estimator, part)
    assert ds["pose_feature_map"].shape == (6, 6, 4, 3)
    assert ds["depth_feature_map"].shape == (6, 4, 8, 8)
    assert ds["pose_feature_map"].dtype == np.float16
    blocks = map_of("pose", 6, number=4).reshape(6, 4, 3, 3, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(ds["pose_feature_map"][4], blocks, rtol=1e-3)
    # 20 x 15 cells in 8 x 8: as if every cell were 8 x 8 smaller ones.
    fine = map_of("depth", 4, number=4).repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_allclose(
        ds["depth_feature_map"][4], fine.reshape(4, 8, 15, 8, 20).mean(axis=(2, 4)), rtol=1e-3, atol=1e-3
    )
    # Three of the crop's own cells make one: their middle is the kept cell's.
    to_cell = ds["pose_px_to_cell"][4].values
    middle = np.linalg.inv(px_to_cell_of("pose", coco_joints(4))) @ [4, 7, 1]
    np.testing.assert_allclose(to_cell @ middle, [1, 2], atol=1e-9)
    np.testing.assert_allclose(ds["depth_px_to_cell"].values[4] @ [319.5, 239.5, 1], [3.5, 3.5])
    assert ds["pose_grid"][4].values.tolist() == [9, 12]
    assert ds["depth_grid"][4].values.tolist() == [20, 15]
    assert ds["pose_feature_map"].attrs["layer"] == "the last"
    assert ds.attrs["partition"] == part.id
    assert ds["cell_axis"].values.tolist() == ["column", "row"]


def test_rows_without_a_person_or_an_image_are_nan(raw: Path, tmp_path: Path) -> None:
    estimator, part = keeping(tmp_path)
    estimate_partition(part, estimator)
    ds = read(estimator, part)
    for name in ("pose_feature_map", "depth_feature_map", "pose_px_to_cell"):
        there = np.isfinite(ds[name].values.reshape(6, -1))
        assert there.all(axis=1).tolist() == [i not in (EMPTY, BAD) for i in range(6)]
        assert not there[[EMPTY, BAD]].any()
    assert ds["pose_grid"].values[EMPTY].tolist() == [0, 0]


def test_two_people_have_crops_of_their_own_and_one_image(raw: Path, tmp_path: Path) -> None:
    ds = annotated(people=2)
    for row in range(12):
        ds["keypoints_2d"].values[row] = coco_joints(int(ds["frame_number"][row]), 1 - int(ds["person"][row]))
    estimator, part = keeping(tmp_path, ds, association="overlap", models={"people": 2})
    estimate_partition(part, estimator)
    found = read(estimator, part)
    assert found["person"].values.tolist() == ds["person"].values.tolist()
    for row in np.flatnonzero(found["frame_number"].values == 2):
        detected = 1 - int(found["person"][row])  # annotated in the other order
        expected = map_of("pose", 6, 2, detected).reshape(6, 4, 3, 3, 3).mean(axis=(2, 4))
        np.testing.assert_allclose(found["pose_feature_map"][row], expected, rtol=1e-3)
        first_joint = np.append(coco_joints(2, detected)[0], 1)
        # The centre of the crop's first cell, of which three make one: half a small cell from the edge.
        np.testing.assert_allclose(found["pose_px_to_cell"].values[row] @ first_joint, [-1 / 3, -1 / 3], atol=1e-9)
    a, b = found["depth_feature_map"].values[found["frame_number"].values == 2]
    np.testing.assert_array_equal(a, b)


def test_features_are_the_same_with_maps_and_without(raw: Path, tmp_path: Path) -> None:
    with_maps, part = keeping(tmp_path)
    without, same = keeping(tmp_path, embeddings=True)
    assert (same, without.features) == (part, with_maps.features)
    estimate_partition(part, without)
    plain = xr.load_dataset(without.features / part.path, engine="netcdf4")
    assert maps.path_of(without.features / part.path, without.settings.embeddings) is None
    assert not list(with_maps.features.rglob("*.zarr.zip"))
    (with_maps.features / part.path).unlink()
    estimate_partition(part, with_maps)
    xr.testing.assert_identical(xr.load_dataset(with_maps.features / part.path, engine="netcdf4"), plain)
    key = stage_key(describe_stage(with_maps.models, with_maps.settings, {}))
    assert key == stage_key(describe_stage(without.models, without.settings, {}))
    none, _ = keeping(tmp_path, embeddings=False)
    assert stage_key(describe_stage(none.models, none.settings, {})) != key


def test_finished_features_stay_when_maps_are_asked_for_later(raw: Path, tmp_path: Path) -> None:
    without, part = keeping(tmp_path, embeddings=True)
    first = estimate_partition(part, without)
    stamp = (without.features / part.path).stat()
    estimator, _ = keeping(tmp_path)
    again = estimate_partition(part, estimator)
    assert again.sha256 == first.sha256
    assert (estimator.features / part.path).stat().st_ino == stamp.st_ino
    assert np.isfinite(read(estimator, part)["pose_feature_map"][0]).all()


def test_nothing_runs_where_both_are_there_and_another_size_is_another_file(raw: Path, tmp_path: Path) -> None:
    estimator, part = keeping(tmp_path)
    estimate_partition(part, estimator)
    calls = the_models(estimator).calls.copy()
    estimate_partition(part, estimator)
    assert the_models(estimator).calls == calls
    finer, _ = keeping(tmp_path, embeddings={"keep_maps": True, "depth_map": [20, 15]})
    estimate_partition(part, finer)
    np.testing.assert_allclose(read(finer, part)["depth_feature_map"][0], map_of("depth", 4, 0))
    assert len(list(estimator.features.rglob("*.zarr.zip"))) == 2


def test_a_worker_that_dies_between_maps_and_features_costs_a_run(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, part = keeping(tmp_path)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(estimate, "write_partition", die)
        with pytest.raises(KeyboardInterrupt):
            estimate_partition(part, estimator)
    assert kept(estimator, part).exists()
    assert not (estimator.features / part.path).exists(), "the features come last"
    calls = the_models(estimator).calls["pose"]
    estimate_partition(part, estimator)
    assert the_models(estimator).calls["pose"] > calls
    assert (estimator.features / part.path).exists()


def test_a_write_that_is_cut_short_leaves_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator, part = keeping(tmp_path)
    original, written = zipfile.ZipFile.writestr, []

    def torn(self: zipfile.ZipFile, *args: Any, **options: Any) -> None:
        written.append(args)
        if len(written) == 9:
            raise OSError(errno.EIO, "Input/output error")
        original(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "writestr", torn)
        with pytest.raises(WorkspaceError, match="Input/output"):
            estimate_partition(part, estimator)
    assert len(written) >= 9
    assert not [path for path in estimator.features.rglob("*") if path.suffix in (".zip", ".nc")]
    estimate_partition(part, estimator)
    maps.verify_maps(kept(estimator, part), part.id, part.rows)


def damage(path: Path) -> None:
    """Change a byte in the middle of the largest chunk."""
    with zipfile.ZipFile(path) as file:
        chunk = max(file.infolist(), key=lambda entry: entry.compress_size)
    content = bytearray(path.read_bytes())
    content[chunk.header_offset + 60 + chunk.compress_size // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, lambda path: path.write_bytes(path.read_bytes()[:-40])])
def test_a_damaged_file_is_told(raw: Path, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    estimator, part = keeping(tmp_path)
    estimate_partition(part, estimator)
    path = kept(estimator, part)
    maps.verify_maps(path, part.id, part.rows)
    with pytest.raises(ValueError, match="this partition's"):
        maps.verify_maps(path, "another", part.rows)
    harm(path)
    with pytest.raises(OSError, match=path.name):
        maps.verify_maps(path, part.id, part.rows)


def test_maps_that_cannot_be_kept_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, mapped = (ModelSettings(set=f"tests.etl.fakes:{name}") for name in ("build", "build_mapped"))
    maps.check_can_keep(EmbeddingSettings(enabled=True), plain)
    maps.check_can_keep(SETTINGS, mapped)
    maps.check_can_keep(SETTINGS, ModelSettings(set="auglift"))
    for chosen in (plain, ModelSettings(set="embedded")):
        with pytest.raises(ConfigError, match="has none"):
            maps.check_can_keep(SETTINGS, chosen)
    original = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name == "zarr":
            raise ModuleNotFoundError("No module named 'zarr'")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"xycd\[zarr\]"):
        maps.check_can_keep(SETTINGS, mapped)


def test_bytes_of_a_row_are_those_on_the_disk_about(tmp_path: Path) -> None:
    settings = EmbeddingSettings(keep_maps=True)
    expected = maps.bytes_of_row((1024, 256), settings)
    assert maps.bytes_of_row((1024, 256), EmbeddingSettings(enabled=True)) == 0
    shapes = {"pose": (1024, 4, 3), "depth": (256, 8, 8)}
    key = SequenceKey("h36m", "S1", "Walking", 1, "0")
    ds = schema.empty(key, np.arange(40), np.zeros(40, int), shapes, {"pose": "", "depth": ""})
    rng = np.random.default_rng(0)
    for stream in shapes:
        values = ds[f"{stream}_feature_map"].values
        values[:] = rng.normal(size=values.shape)
    maps.write(ds, tmp_path / "a.zarr.zip")
    assert 0.8 * expected < (tmp_path / "a.zarr.zip").stat().st_size / 40 < 1.1 * expected
    xr.testing.assert_equal(maps.read(tmp_path / "a.zarr.zip"), ds)


def test_a_mapped_row_is_ok_exactly_where_the_feature_row_is(raw: Path, tmp_path: Path) -> None:
    estimator, part = keeping(tmp_path, models={"broken": [4]}, batch=6)
    estimate_partition(part, estimator)
    with xr.open_dataset(estimator.features / part.path, engine="netcdf4") as ds:
        ok = ds["status"].values == Status.OK
        features.validate(ds)
    assert ok.tolist() == [True, False, True, False, False, True]
    found = np.isfinite(read(estimator, part)["pose_feature_map"].values).all(axis=(1, 2, 3))
    assert found.tolist() == ok.tolist()
    assert [a["id"] for a in FeatureStore(estimator.features).attempts()] == [part.id]
