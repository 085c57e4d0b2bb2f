from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import xarray as xr

from etl.config import EstimateSettings, ModelSettings
from etl.errors import DeviceError, MediaError, ModelError
from etl.media.frames import decode
from etl.models.base import DepthField, Description, Detections, Embeddings, Frame, Poses
from etl.stages import estimate, identity
from etl.stages.estimate import (
    Estimator,
    batched,
    estimate_partition,
    estimate_rows,
    load_rows,
)
from etl.stages.files.features import write_partition
from etl.stages.identity import describe_models, describe_stage, stage_key
from etl.store.partition import Partition, cut_sequence
from etl.store.workspace import FeatureStore
from schemas import annotation, features
from schemas.features import Status
from tests.etl.fakes import FakeModels, coco_joints, depth_of

BAD = 3


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Six images, one of them not an image."""
    folder = tmp_path / "raw" / "pics"
    folder.mkdir(parents=True)
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((480, 640, 3), 20 * i, np.uint8))
    (folder / f"{BAD}.png").write_bytes(b"")
    return tmp_path / "raw"


def annotated(people: int = 1, ground_truth: bool = True, frames: int = 6) -> xr.Dataset:
    ds = annotation.mock(frames=frames, people=people, ground_truth=ground_truth)
    media = {"kind": "images", "path": "pics", "pattern": "{number}.png", "first": 0}
    return ds.assign_attrs(media=json.dumps(media))


def make(tmp_path: Path, ds: xr.Dataset, **settings: Any) -> tuple[Estimator, list[Partition]]:
    """Estimator and partitions of `ds`, with fake models."""
    folder = tmp_path / "annotations"
    folder.mkdir(exist_ok=True)
    ds.to_netcdf(folder / "a.nc", engine="netcdf4")
    factory = settings.pop("factory", "tests.etl.fakes:build")
    models = ModelSettings(set=factory, options=settings.pop("models", {}))
    chosen = EstimateSettings.model_validate({"association": "person", **settings})
    stage = describe_stage(models, chosen, {"hz": 25})
    store = FeatureStore(tmp_path / "features" / stage_key(stage))
    store.create(stage)
    estimator = Estimator(models, chosen, tmp_path / "raw", folder, store.folder, json.dumps(stage))
    parts = cut_sequence(ds, "a.nc", store.folder.name, chosen.partition_frames, uses_boxes=estimator.uses_boxes)
    return estimator, parts


def test_a_partition_becomes_a_valid_file_with_every_row(raw: Path, tmp_path: Path) -> None:
    estimator, (part,) = make(tmp_path, annotated(), models={"empty": [1]})
    receipt = estimate_partition(part, estimator)
    path = estimator.features / receipt.path
    assert receipt.bytes == path.stat().st_size
    assert receipt.counts == {"ok": 4, "no_person": 1, "decode_error": 1}
    with xr.open_dataset(path, engine="netcdf4") as ds:
        features.validate(ds)
        assert ds["status"].values.tolist() == [0, Status.NO_PERSON, 0, Status.DECODE_ERROR, 0, 0]
        assert ds["frame_number"].values.tolist() == list(range(6))
        reasons = features.failures_of(ds)
        assert reasons[1] == "no person detected"
        assert f"{BAD}.png" in reasons[BAD]
        # COCO's left wrist is H36M's joint 13: the right frame's, at the right depth.
        np.testing.assert_allclose(ds["features"].sel(joint="left_wrist").values[4, :2], coco_joints(4)[9])
        np.testing.assert_allclose(ds["features"].sel(feature="depth").values[4], depth_of(4))
        assert json.loads(ds.attrs["stage"])["models"]["name"] == "fake"
    assert [a["id"] for a in FeatureStore(estimator.features).attempts()] == [part.id]


def test_models_that_fail_cost_the_frame_they_fail_on(raw: Path, tmp_path: Path) -> None:
    estimator, (part,) = make(tmp_path, annotated(), models={"broken": [4]}, batch=6)
    ds = estimate_rows(load_rows(estimator.annotations / "a.nc", part), FakeModels(broken=[4]), estimator)
    assert ds["status"].values.tolist() == [0, 0, 0, Status.DECODE_ERROR, Status.MODEL_ERROR, 0]
    assert features.failures_of(ds)[4] == "RuntimeError: frame 4 is cursed"


@pytest.mark.parametrize("batch", [1, 4, 6])
def test_the_batch_changes_nothing(raw: Path, tmp_path: Path, batch: int) -> None:
    reference, (part,) = make(tmp_path, annotated(), batch=2)
    other, (same,) = make(tmp_path, annotated(), batch=batch)
    assert same == part
    rows = load_rows(reference.annotations / "a.nc", part)
    xr.testing.assert_identical(estimate_rows(rows, FakeModels(), reference), estimate_rows(rows, FakeModels(), other))


def test_two_people_are_two_rows_and_one_depth(raw: Path, tmp_path: Path) -> None:
    ds = annotated(people=2)
    for row in range(12):
        number, person = int(ds["frame_number"][row]), int(ds["person"][row])
        # Annotated in the other order than detected.
        ds["keypoints_2d"].values[row] = coco_joints(number, 1 - person)
    estimator, (part,) = make(tmp_path, ds, association="overlap")
    models = FakeModels(people=2)
    result = estimate_rows(load_rows(estimator.annotations / "a.nc", part), models, estimator)
    assert (result["status"] == Status.OK).sum() == 10
    assert models.frames["depth"] == 5
    row = 6 + 2  # second person, frame 2
    np.testing.assert_allclose(result["features"].sel(joint="left_wrist").values[row, :2], coco_joints(2, 0)[9])


def test_person_whose_annotation_is_unknown_matches_nobody(raw: Path, tmp_path: Path) -> None:
    ds = annotated()
    ds["keypoints_2d"].values[:] = [coco_joints(n) for n in range(6)]
    ds["keypoints_2d"].values[2] = np.nan
    estimator, (part,) = make(tmp_path, ds, association="overlap")
    result = estimate_rows(load_rows(estimator.annotations / "a.nc", part), FakeModels(), estimator)
    assert result["status"].values.tolist() == [0, 0, Status.NO_PERSON, Status.DECODE_ERROR, 0, 0]


def test_media_without_ground_truth(raw: Path, tmp_path: Path) -> None:
    estimator, (part,) = make(tmp_path, annotated(ground_truth=False))
    assert estimate_partition(part, estimator).counts["ok"] == 5


def test_a_missing_video_costs_its_frames(tmp_path: Path) -> None:
    ds = annotated().assign_attrs(media=json.dumps({"kind": "video", "path": "gone.mp4"}))
    (tmp_path / "raw").mkdir()
    estimator, (part,) = make(tmp_path, ds)
    assert estimate_partition(part, estimator).counts == {"decode_error": 6}


def test_embeddings_survive_the_file(raw: Path, tmp_path: Path) -> None:
    estimator, (part,) = make(tmp_path, annotated(), models={"channels": [4, 2]}, embeddings=True)
    receipt = estimate_partition(part, estimator)
    with xr.open_dataset(estimator.features / receipt.path, engine="netcdf4") as ds:
        bits = features.decode_float16(ds["pose_embedding"].values)
        np.testing.assert_allclose(bits[0, :, 0], ds["features"].sel(feature="x").values[0], rtol=1e-3)
        assert np.isnan(bits[BAD]).all()
        assert ds["depth_embedding"].shape == (6, 17, 2)


class Gridded(FakeModels):
    """Reads its embeddings off maps of known sizes."""

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Any]) -> list[Embeddings]:
        found = super().embed(poses, depths, joints)
        return [replace(e, grids={"pose": (9, 12), "depth": (37, 37)}) for e in found]


def test_sizes_of_the_maps_behind_embeddings_are_recorded(raw: Path, tmp_path: Path) -> None:
    estimator, (part,) = make(tmp_path, annotated(), models={"channels": [4, 2]}, embeddings=True)
    rows = load_rows(estimator.annotations / "a.nc", part)
    ds = estimate_rows(rows, Gridded(channels=(4, 2)), estimator)
    assert json.loads(ds.attrs["embedding_grids"]) == {"pose": [[9, 12]], "depth": [[37, 37]]}
    assert "embedding_grids" not in estimate_rows(rows, FakeModels(channels=(4, 2)), estimator).attrs


def test_a_file_with_embeddings_of_the_large_networks_is_small_enough(tmp_path: Path) -> None:
    """1024 channels of RTMPose-l and 256 of ViT-L: at most 46 kB a frame, which are 35 GB for Human3.6M at 25 Hz."""
    ds = features.mock(frames=512, pose_channels=1024, depth_channels=256)
    (part,) = cut_sequence(annotation.mock(frames=512), "a.nc", "key", 512, uses_boxes=False)
    store = FeatureStore(tmp_path / "features")
    store.create({})
    receipt = write_partition(ds, part, store)
    assert receipt.bytes == (store.folder / receipt.path).stat().st_size <= 46_000 * 512


def test_the_stage_key_depends_on_what_changes_values() -> None:
    models, settings = ModelSettings(set="tests.etl.fakes:build"), EstimateSettings(association="person")

    def key(models: ModelSettings = models, settings: EstimateSettings = settings, hz: int = 25) -> str:
        return stage_key(describe_stage(models, settings, {"hz": hz}))

    reference = key()
    assert key() == reference
    for speed in ({"batch": 3}, {"decode_ahead_mb": 99}):
        assert key(settings=settings.model_copy(update=speed)) == reference
    for change in ({"person": "largest_box"}, {"field_of_view": 60.0}, {"partition_frames": 7}):
        assert key(settings=settings.model_copy(update=change)) != reference
    assert key(models=ModelSettings(set="tests.etl.fakes:build", options={"people": 2})) != reference
    assert key(hz=50) != reference


class Planned:
    """A factory that says what it would build, and whose building takes what nobody should wait for."""

    def __init__(self, people: int = 1) -> None:
        raise AssertionError("a run is planned without building the networks")

    @classmethod
    def describe_set(cls, people: int = 1) -> Description:
        return Description(FakeModels(people).identity, (4, 2))


def test_a_run_is_planned_without_building_the_models() -> None:
    settings = EstimateSettings(association="person")
    planned = ModelSettings(set=f"{__name__}:Planned", options={"people": 2})
    built = ModelSettings(set="tests.etl.fakes:build", options={"people": 2})
    assert describe_stage(planned, settings, {}) == describe_stage(built, settings, {})
    assert describe_models(planned).channels == (4, 2)
    assert describe_models(built).channels == (0, 0)


def test_features_are_never_named_after_other_models_than_those_that_made_them(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, (part,) = make(tmp_path, annotated())
    monkeypatch.setattr(identity, "build_models", lambda _: FakeModels(people=2))
    with pytest.raises(ModelError, match="people is 2, planned 1"):
        estimate_partition(part, estimator)
    assert not (estimator.features / part.path).exists()


def test_batched() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]


class Elsewhere(FakeModels):
    """On a GPU, as it were, or beside one; from frame `faulty` on, every call fails, and the GPU doesn't answer."""

    def __init__(self, on_device: bool, faulty: int | None = None) -> None:
        super().__init__()
        self.on_device, self.faulty, self.works = on_device, faulty, True

    def device_works(self) -> bool:
        return self.works

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        if self.faulty is not None and any(frame.number >= self.faulty for frame in frames):
            self.works = False
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().detect(frames)


def test_a_gpu_that_fails_costs_no_frame(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator, (part,) = make(tmp_path, annotated(), batch=2)
    monkeypatch.setattr(identity, "build_models", lambda _: Elsewhere(on_device=True, faulty=4))
    with pytest.raises(DeviceError, match="illegal memory access"):
        estimate_partition(part, estimator)
    assert not (estimator.features / part.path).exists()


class Unfit(FakeModels):
    """Raises `error` on every frame."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        raise self.error


def test_models_that_fail_alike_on_all_frames_finish_nothing(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, (part,) = make(tmp_path, annotated())
    monkeypatch.setattr(identity, "build_models", lambda _: Unfit(ModelError("A batch fits.", "none", "Another GPU.")))
    with pytest.raises(ModelError, match=r"on each: ModelError: none. A batch fits"):
        estimate_partition(part, estimator)
    assert not (estimator.features / part.path).exists()
    # What is wrong with the frames themselves stays so, and is theirs.
    monkeypatch.setattr(
        identity, "build_models", lambda _: Unfit(MediaError("Not so long.", "4000 x 20 px", "Cut it."))
    )
    assert estimate_partition(part, estimator).counts == {"decode_error": 6}


@pytest.mark.parametrize(
    ("limit", "models", "ahead"),
    [
        (1, FakeModels(), False),
        (2, FakeModels(), True),
        (1, Elsewhere(on_device=True), True),
        (1, Elsewhere(on_device=False), False),
    ],
)
def test_a_worker_with_one_processor_decodes_between_batches_unless_its_models_leave_it_alone(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, models: FakeModels, ahead: bool
) -> None:
    estimator, parts = make(tmp_path, annotated())
    decoders = set()

    def noted(*arguments: Any, **options: Any) -> Iterator[Any]:
        for frame in decode(*arguments, **options):
            decoders.add(threading.current_thread().name)
            yield frame

    monkeypatch.setattr(estimate, "decode", noted)
    monkeypatch.setattr(identity, "build_models", lambda _: models)
    monkeypatch.setattr(estimate, "processors", lambda: limit)
    receipt = estimate_partition(parts[0], estimator)
    assert receipt.counts == {"ok": 5, "decode_error": 1}
    assert decoders == {"read-ahead" if ahead else threading.current_thread().name}
    assert receipt.model_s > 0


def test_all_cores_decode_for_a_gpu_and_half_of_them_beside_networks_that_need_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, beside_gpu, beside_networks in ((1, 1, 1), (2, 2, 1), (16, 16, 8)):
        monkeypatch.setattr(estimate, "processors", lambda cores=cores: cores)
        assert estimate.decode_threads(Elsewhere(on_device=True)) == beside_gpu
        assert estimate.decode_threads(FakeModels()) == beside_networks
