"""The whole way of the data on a rendered Human3.6M, against its truth."""

from __future__ import annotations

import collections
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import cluster
from cluster.config import ClusterConfig
from etl import pipeline
from etl.config import Config, load
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from etl.demo.truth import SceneTruth
from etl.errors import MergeError, WorkspaceError
from etl.execution.job import DatasetJob
from etl.execution.summary import Summary
from etl.results.features import open_features
from etl.stages.blocks.skeleton import coco_to_h36m
from etl.store.failures import list_failures
from etl.store.workspace import Workspace
from schemas.keys import SequenceKey
from schemas.xycd import validate

FRAMES = 12
SUBJECTS = ("S1", "S9")
CAMERAS = ("54138969", "55011271")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "h36m"
    plan = Plan(subjects=SUBJECTS, actions=("Walking",), cameras=CAMERAS, frames=FRAMES, scale=0.3)
    render(folder, plan, workers=1)
    return folder


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    with cluster.start(ClusterConfig(workers=2)) as running:
        yield running


def configure(raw: Path, work: Path, hz: int = 25, **changes: Any) -> Config:
    """The truth as models; three partitions a sequence."""
    truth = {"folder": str(changes.pop("truth", raw)), **changes.pop("options", {})}
    values = {
        "workspace": str(work),
        "datasets": {"h36m": {"root": str(raw), "hz": hz}},
        "models": {"set": "etl.demo.truth:build", "options": truth},
        "estimate": {"partition_frames": 4},
    }
    return load(None, values, changes)


def run(config: Config, workers: Any, **options: Any) -> Summary:
    (summary,) = pipeline.run(config, cluster=workers, **options)
    return summary


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ("hz", "routing"),
    [
        (50, {}),
        (25, {"input_size": [192, 256], "rotation": 0.3}),
        (25, {"input_size": [288, 384], "keep_aspect": False, "flip": True}),
        (10, {"input_size": [256, 256], "box_padding": 0.7, "rotation": -2.0}),
    ],
)
def test_the_truth_comes_back(raw: Path, tmp_path: Path, workers: Any, hz: int, routing: dict[str, Any]) -> None:
    summary = run(configure(raw, tmp_path / "w", hz, options=routing), workers)
    assert not summary.troubled
    truth = SceneTruth(raw)
    rows = 0
    assert [path.name for path in summary.outputs] == ["h36m_xycd_train.npz", "h36m_xycd_val.npz"]
    for path, subject in zip(summary.outputs, SUBJECTS, strict=True):
        validate(path)
        table = read(path)
        rows += len(table["frame"])
        assert set(table["subject"].tolist()) == {subject}
        assert table["valid_detection"].all()
        for i in range(len(table["frame"])):
            key = SequenceKey(
                "h36m", subject, str(table["action"][i]), int(table["subaction"][i]), str(table["camera"][i])
            )
            number, scene = int(table["frame"][i]), truth.truth(key)
            expected, _ = coco_to_h36m(scene.coco_2d[number], np.ones(17))
            # The contract is 0.5 px; nothing but rounding stands between, so that much is asked for.
            assert np.abs(table["predicted_keypoints"][i] - expected).max() < 0.02
            assert np.abs(table["part"][i, :, :2] - scene.h36m_2d[number]).max() < 0.01
            assert np.abs(table["S"][i, :, :3] - scene.h36m_3d[number]).max() < 1e-3
            x, y = np.round(expected).astype(int).T
            surface = scene.depth(number)[y, x]
            shown = scene.converted_visible[number]
            depth = table["predicted_da_depth"][i]
            assert np.abs(depth - surface)[shown].max() < 0.01
            # And it is the person's, not the wall's.
            assert np.abs(scene.h36m_3d[number, :, 2] - depth)[shown].max() < 0.3
            assert shown.sum() >= 6
    assert rows == len(SUBJECTS) * len(CAMERAS) * len(range(0, FRAMES, 50 // hz))
    frames = np.unique(table["frame"])
    assert frames.tolist() == list(range(0, FRAMES, 50 // hz))


def test_each_frame_is_seen_once_and_a_second_run_does_nothing(raw: Path, tmp_path: Path, workers: Any) -> None:
    log = tmp_path / "calls"
    config = configure(raw, tmp_path / "w", hz=50, options={"log": str(log)})
    first = run(config, workers)
    calls = collections.Counter(log.read_text().splitlines())
    assert set(calls.values()) == {1}
    assert len(calls) == 3 * first.rows.total()  # detect, pose and depth
    output = first.outputs[0].read_bytes()
    second = run(config, workers)
    assert (second.ran, second.kept) == (0, first.ran)
    assert collections.Counter(log.read_text().splitlines()) == calls
    assert second.outputs[0].read_bytes() == output
    assert (first.unchanged, second.unchanged) == (False, True)
    second.outputs[0].write_bytes(output[:-1])
    third = run(config, workers, stages=("merge",))
    assert not third.unchanged
    assert third.outputs[0].read_bytes() == output


def test_a_changed_parameter_runs_what_depends_on_it(raw: Path, tmp_path: Path, workers: Any) -> None:
    config = configure(raw, tmp_path / "w", hz=10)
    run(config, workers)
    (annotations,) = (tmp_path / "w" / "h36m" / "annotations").iterdir()
    stamps = {p: p.stat().st_mtime_ns for p in annotations.rglob("*.nc")}
    assert len(stamps) == 4
    changed = load(
        None,
        config.model_dump(mode="json", by_alias=True, exclude_none=True),
        {"estimate": {"descriptor": {"radius": "linear"}}},
    )
    again = run(changed, workers)
    assert (again.ran, again.kept) == (4, 0)
    assert {p: p.stat().st_mtime_ns for p in annotations.rglob("*.nc")} == stamps
    assert len(list((tmp_path / "w" / "h36m" / "features").iterdir())) == 2


def test_the_number_of_workers_changes_nothing(raw: Path, tmp_path: Path, workers: Any) -> None:
    reference = run(configure(raw, tmp_path / "a", hz=10), workers)
    with cluster.start(ClusterConfig(workers=1)) as one:
        other = run(configure(raw, tmp_path / "b", hz=10), one)
    for mine, theirs in zip(reference.outputs, other.outputs, strict=True):
        assert mine.read_bytes() == theirs.read_bytes()


def test_npy_folder_with_detected_part(raw: Path, tmp_path: Path, workers: Any) -> None:
    config = configure(raw, tmp_path / "w", hz=10, merge={"format": "npy", "part": "detected"})
    (train, _) = run(config, workers).outputs
    part = np.load(train / "part.npy", mmap_mode="r", allow_pickle=False)
    predicted = np.load(train / "predicted_keypoints.npy", mmap_mode="r", allow_pickle=False)
    np.testing.assert_array_equal(part[..., :2], predicted)
    validate(train)


def test_statistics_become_vectors(raw: Path, tmp_path: Path, workers: Any) -> None:
    config = configure(raw, tmp_path / "w", hz=10, estimate={"descriptor": {"statistics": True}})
    table = read(run(config, workers).outputs[0])
    assert table["summary_casp_descriptor_10d"].shape[1:] == (17, 10)
    assert table["casp_descriptors"].shape[1:] == (17, 19)
    np.testing.assert_array_equal(table["summary_casp_descriptor_10d"][..., :2], table["predicted_keypoints"])


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_a_bad_video_costs_its_own_frames(raw: Path, tmp_path: Path, workers: Any, damage: str) -> None:
    copy = tmp_path / "h36m"
    shutil.copytree(raw, copy)
    (video,) = copy.glob("S1/Videos/Walking*54138969.mp4")
    content = video.read_bytes()
    if damage == "missing":
        video.unlink()
    else:
        video.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "text": b"not a video\n" * 99}[damage]
        )
    summary = run(configure(copy, tmp_path / "w", truth=raw), workers)
    assert summary.troubled
    frames = len(range(0, FRAMES, 2))
    assert summary.rows["decode_error"] in range(1, frames + 1)
    assert summary.rows["ok"] + summary.rows["decode_error"] == 4 * frames
    found = list_failures(tmp_path / "w")
    listed = found[found["what"] == "decode_error"]
    assert len(listed) == summary.rows["decode_error"]
    assert set(listed["camera"]) == {"54138969"}
    assert listed["reason"].str.contains(video.name, regex=False).all()
    table = read(summary.outputs[0])
    bad = ~table["valid_detection"]
    assert bad.sum() == summary.rows["decode_error"]
    assert not table["predicted_keypoints"][bad].any()
    assert not table["xycd"][bad].any()
    assert table["part"][bad].any()
    validate(summary.outputs[0])


def test_a_bad_pose_file_costs_its_sequence(raw: Path, tmp_path: Path, workers: Any) -> None:
    copy = tmp_path / "h36m"
    shutil.copytree(raw, copy)
    (poses,) = copy.glob("S1/MyPoseFeatures/D3_Positions_mono/Walking*55011271.cdf")
    poses.write_bytes(poses.read_bytes()[:1000])
    summary = run(configure(copy, tmp_path / "w", hz=10, truth=raw), workers)
    assert summary.sequences == 3
    (failure,) = summary.failed
    assert poses.name in failure
    found = list_failures(tmp_path / "w")
    assert found["what"].tolist() == ["annotation"]
    assert found["camera"].tolist() == ["55011271"]


def test_one_run_at_a_time(raw: Path, tmp_path: Path) -> None:
    with Workspace(tmp_path / "w").writing(), pytest.raises(WorkspaceError, match="in use"):
        pipeline.run(configure(raw, tmp_path / "w"))


def test_merge_refuses_what_estimate_has_not_finished(raw: Path, tmp_path: Path, workers: Any) -> None:
    config = configure(raw, tmp_path / "w", hz=10)
    run(config, workers, stages=("annotate",))
    with pytest.raises(MergeError, match="estimate"):
        run(config, workers, stages=("merge",))


def test_a_query_has_the_names_that_a_person_asks_by(raw: Path, tmp_path: Path, workers: Any) -> None:
    config = configure(raw, tmp_path / "w", hz=10)
    run(config, workers)
    selected = open_features(tmp_path / "w").sel(subject="S9", action="Walk*", camera=CAMERAS[1])
    ds = selected.load()
    assert set(ds["subject"].values.tolist()) == {"S9"}
    assert ds["frame_number"].values.tolist() == [0, 5, 10]
    with pytest.raises(WorkspaceError, match="S1, S9"):
        open_features(tmp_path / "w").sel(subject="S5")


def test_feature_files_say_where_they_come_from(raw: Path, tmp_path: Path, workers: Any) -> None:
    config = configure(raw, tmp_path / "w", hz=10)
    run(config, workers)
    path = open_features(tmp_path / "w").paths()[0]
    with xr.open_dataset(path, engine="netcdf4") as ds:
        stage = json.loads(ds.attrs["stage"])
    assert stage == DatasetJob("h36m", config).stage
    assert stage["parameters"]["association"] == "person"
