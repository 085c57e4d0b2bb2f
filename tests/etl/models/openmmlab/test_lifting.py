"""MMPose's own datasets for lifting read our files, and give the joints that we wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")

from etl import pipeline
from etl.config import load
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from etl.models.auglift.openmmlab import import_packages
from etl.stages.join import SequenceFiles
from etl.stages.merge import merge
from schemas import annotation, features
from schemas.features import Status
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS
FRAMES = 5


@dataclass
class Training:
    """The training folder of a rendered Human3.6M, and its annotations in the order of the files' rows."""

    folder: Path
    truth: list[xr.Dataset]

    def joints(self, name: str) -> Any:
        return np.concatenate([ds[name].values for ds in self.truth]).astype(np.float32)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    folder = tmp_path_factory.mktemp("lifting")
    cameras = ("54138969", "60457274")
    plan = Plan(subjects=("S1",), actions=("Walking",), cameras=cameras, frames=FRAMES, scale=0.3)
    render(folder / "raw", plan, workers=1)
    settings = {"workspace": str(folder / "work"), "datasets": {"h36m": {"root": str(folder / "raw"), "hz": 50}}}
    config = load(None, settings)
    pipeline.run(config, stages=("annotate",))
    pairs, truth = [], []
    for number, path in enumerate(sorted((folder / "work").rglob("*.nc"))):
        with xr.open_dataset(path, engine="netcdf4") as ds:
            annotated = ds.load()
        found = features.mock(annotation.key_of(annotated), annotated.sizes["frame"], seed=number)
        found["frame_number"].values[:] = annotated["frame_number"].values
        found["status"].values[:] = Status.OK
        found.attrs["stage"] = json.dumps({})
        target = folder / f"{number}.nc"
        features.validate(found).to_netcdf(target, engine="netcdf4")
        pairs.append(SequenceFiles(path, (target,)))
        truth.append(annotated)
    for part in ("truth", "detected"):
        merge(pairs, folder / "work/training" / f"h36m_xycd_train_{part}.npz", part=part)
    order = np.argsort([str(annotation.key_of(ds)) for ds in truth])
    return Training(folder / "work/training", [truth[i] for i in order])


def dataset(kind: str, training: Training, ann_file: str, **options: Any) -> Any:
    """A dataset of MMPose, as the lines of docs/training.md configure it."""
    import_packages()
    from mmengine.registry import DefaultScope
    from mmpose.registry import DATASETS

    settings = {"type": kind, "ann_file": ann_file, "data_root": str(training.folder), "pipeline": [], **options}
    with DefaultScope.overwrite_default_scope("mmpose"):
        return DATASETS.build(settings)


@pytest.mark.parametrize("ann_file", ["h36m_train.npz", "h36m_xycd_train_truth.npz", "h36m_xycd_train_detected.npz"])
def test_human36m_dataset_gives_the_joints_that_were_written(training: Training, ann_file: str) -> None:
    found = dataset("Human36mDataset", training, ann_file, seq_len=1, camera_param_file="h36m_cameras.pkl")
    assert len(found) == 2 * FRAMES
    samples = [found[i] for i in range(len(found))]
    rows = np.concatenate([sample["img_ids"] for sample in samples])
    with np.load(training.folder / ann_file, allow_pickle=False) as file:
        wanted = file["part"][rows, :, :2] if "detected" in ann_file else training.joints("keypoints_2d")[rows]
        assert [sample["img_paths"][0] for sample in samples] == file["imgname"][rows].tolist()
    keypoints = np.concatenate([sample["keypoints"] for sample in samples])
    np.testing.assert_allclose(keypoints, wanted, rtol=1e-6)
    lifted = np.concatenate([sample["lifting_target"] for sample in samples])
    np.testing.assert_allclose(lifted, training.joints("keypoints_3d")[rows], rtol=1e-6)
    # Its camera projects the joints, back from the camera's frame, onto those in the picture.
    camera = samples[0]["camera_param"]
    assert (camera["w"], camera["h"]) == (300, 300)
    points = lifted[0] / lifted[0][:, 2:]
    straight = points[:, :2] * camera["f"].reshape(2) + camera["c"].reshape(2)
    np.testing.assert_allclose(straight, training.joints("keypoints_2d")[rows[0]], atol=5)  # but for the lens


def test_windows_of_frames_follow_time(training: Training) -> None:
    found = dataset("Human36mDataset", training, "h36m_xycd_train_truth.npz", seq_len=3, causal=False)
    assert len(found) == 2 * (FRAMES - 2)
    for sample in (found[i] for i in range(len(found))):
        first = sample["img_ids"][0]
        assert sample["img_ids"] == [first, first + 1, first + 2]
        assert len({path.rpartition("_")[0] for path in sample["img_paths"]}) == 1
        np.testing.assert_allclose(sample["lifting_target"][0], training.joints("keypoints_3d")[first + 1], rtol=1e-6)


def test_the_base_of_mocap_datasets_reads_them_too(training: Training) -> None:
    found = dataset(
        "BaseMocapDataset",
        training,
        "h36m_xycd_train_truth.npz",
        metainfo={"from_file": "configs/_base_/datasets/h36m.py"},
    )
    assert len(found) == 2 * FRAMES
    np.testing.assert_allclose(found[3]["keypoints_3d"][0], training.joints("keypoints_3d")[3], rtol=1e-6)
    np.testing.assert_allclose(found[3]["keypoints"][0], training.joints("keypoints_2d")[3], rtol=1e-6)
