"""The page: what it says of known results, with and without ground truth, whole, failed and misaligned."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from etl.alignment import judge
from etl.cli.app import app
from etl.errors import WorkspaceError
from etl.report.data import gather
from etl.report.page import write_report
from etl.report.runs import in_words
from etl.stages.join import SequenceFiles
from etl.store.workspace import Workspace
from schemas.features import Status
from schemas.skeletons import H36M_17
from tests.etl.conftest import CAMERAS, Walk

SWAP = np.arange(17)
SWAP[list(H36M_17.left + H36M_17.right)] = H36M_17.right + H36M_17.left


def text_of(page: Path) -> str:
    """What a reader sees: without scripts, styles and tags."""
    content = re.sub(r"<(script|style)\b.*?</\1>", " ", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", content)).replace("&#39;", "'")


def ask_the_judge(walk: Walk) -> None:
    pairs = [SequenceFiles(walk.annotation(camera), (walk.features(camera),)) for camera in CAMERAS]
    current = Workspace(walk.work).current("h36m")
    assert current.features is not None
    path, keys = walk.work / "h36m" / judge.FILE, {"annotations": current.annotations, "features": current.features}
    judge.write_verdicts(judge.judge_files(pairs), path, **keys)


def lose(walk: Walk, camera: str, frames: range, status: Status, reason: str) -> None:
    """Frames of a feature file fail, and its receipt says so."""
    path = walk.features(camera)
    ds = xr.load_dataset(path, engine="netcdf4")
    rows = list(frames)
    for name in ("features", "bbox", "bbox_score"):
        ds[name].values[rows] = np.nan
    ds["joint_valid"].values[rows] = False
    ds["status"].values[rows] = status
    ds.attrs["failures"] = json.dumps([[row, f"{reason} {row}"] for row in rows])
    ds.to_netcdf(path, engine="netcdf4")
    (receipts,) = walk.work.glob("h36m/features/*/receipts.jsonl")
    lines = [json.loads(line) for line in receipts.read_text().splitlines()]
    for line in lines:
        if camera in line["path"]:
            line["counts"] = {"ok": walk.frames - len(rows), status.name.lower(): len(rows)}
    receipts.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="session")
def report(shared_walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the whole walk, with verdicts."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(shared_walk.work, folder / "work")
    walk = Walk(shared_walk.raw, folder / "work")
    ask_the_judge(walk)
    return write_report(walk.work, None, folder / "report.html")


def test_it_says_what_is_so(report: Path) -> None:
    text = text_of(report)
    assert "80 of 80 frames have a person in 2 sequences." in text
    assert "No sequence is misaligned." in text
    assert "Shift of each sequence" in text
    assert "Left open" not in text
    assert "All 2 sequences fit their own annotations best." in text
    assert "Nothing failed." in text
    (error,) = re.findall(r"Half of the limb joints lie within ([\d.]+) px", text)
    assert float(error) < 0.5
    for camera in CAMERAS:
        assert f"S1 Walking 1 [{camera}]" in text
    for section in ("2D error against ground truth", "Confidence against error", "Depth", "Provenance"):
        assert section in text


def test_it_is_one_file(report: Path) -> None:
    content = report.read_text()
    tags = re.sub(r"<(script|style)\b.*?</\1>", "", content, flags=re.S)
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)", tags)
    assert not re.search(r"<script[^>]+src|@import|url\(", content.replace("url(#", "").split("</style>")[0])
    # Best, median and worst frames, each with its depth map.
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', tags)) == 2 * 9
    assert report.stat().st_size < 12e6


def test_failures_are_shown_by_reason(walk: Walk, tmp_path: Path) -> None:
    lose(walk, CAMERAS[0], range(3, 9), Status.NO_PERSON, "nobody <b>there</b> in frame")
    page = write_report(walk.work, "h36m", tmp_path / "r.html", depth=False)
    text = text_of(page)
    assert "74 of 80 frames have a person" in text
    assert "no_person: 6 in 1 sequence" in text
    assert "nobody &lt;b&gt;there&lt;/b&gt; in frame 3" in text
    thumbnails = re.search(r'<div class="thumbs">(.*?)</section>', page.read_text(), flags=re.S)
    assert thumbnails is not None
    assert thumbnails[1].count("data:image/jpeg") == 4
    assert "7.50 %" in text
    # Without depth maps there is one picture a frame.
    assert page.read_text().count('<img src="data:image/jpeg;base64,') == 9 + 4
    assert "depth maps weren&#39;t asked for" in page.read_text()


def test_failures_of_a_large_dataset_are_shown_though_they_are_not_in_the_sample(walk: Walk, tmp_path: Path) -> None:
    lose(walk, CAMERAS[1], range(3, 5), Status.DECODE_ERROR, "broken")
    page = write_report(walk.work, "h36m", tmp_path / "r.html", depth=False, most_rows=8)  # every tenth row
    thumbnails = re.search(r'<div class="thumbs">(.*?)</section>', page.read_text(), flags=re.S)
    assert thumbnails is not None
    assert thumbnails[1].count("data:image/jpeg") == 2
    assert [n in text_of(page) for n in (f"[{CAMERAS[1]}] frame 3", f"[{CAMERAS[1]}] frame 4")] == [True, True]


def test_a_damaged_file_costs_its_rows_only(walk: Walk, tmp_path: Path) -> None:
    path = walk.features(CAMERAS[0])
    path.write_bytes(bytes(path.stat().st_size))
    text = text_of(write_report(walk.work, "h36m", tmp_path / "r.html", depth=False))
    assert "40 of 40 frames have a person" in text
    assert "1 damaged file is left out" in text
    assert path.name in text
    walk.features(CAMERAS[1]).write_bytes(b"")
    with pytest.raises(WorkspaceError, match="--verify"):
        write_report(walk.work, "h36m", tmp_path / "r.html", depth=False)


def test_times_and_workers(walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (receipts,) = walk.work.glob("h36m/features/*/receipts.jsonl")
    lines = [json.loads(line) for line in receipts.read_text().splitlines()]
    for i, line in enumerate(lines):
        line |= {"written": 1_800_000_000 + 7200 * i, "seconds": 100.0, "worker": f"node{i}"}
    receipts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("etl.report.page.MOST_WORKERS", 1)
    text = text_of(write_report(walk.work, "h36m", tmp_path / "r.html", depth=False))
    for at in (1_800_000_000 - 100, 1_800_000_000, 1_800_007_200):
        assert in_words(at) in text
    assert "The plot has the 1 workers with most frames, of 2." in text
    monkeypatch.setattr("etl.report.page.MOST_RUNS", 1)
    assert "The last 1 of 2." in text_of(write_report(walk.work, "h36m", tmp_path / "r.html", depth=False))


def test_verdicts_on_other_features_are_not_shown(walk: Walk, tmp_path: Path) -> None:
    ask_the_judge(walk)
    path = walk.work / "h36m" / judge.FILE
    path.write_text(path.read_text().replace('"features": "', '"features": "older-'))
    text = text_of(write_report(walk.work, "h36m", tmp_path / "r.html", depth=False))
    assert "Not judged yet for these features" in text
    assert "fit their own annotations best" not in text


def test_too_few_frames_are_not_called_aligned(walk: Walk, tmp_path: Path) -> None:
    with h5py.File(walk.annotation(CAMERAS[0]), "a") as ds:
        ds["valid_annotation"][:] = np.arange(40) < 3
    ask_the_judge(walk)
    text = text_of(write_report(walk.work, "h36m", tmp_path / "r.html", depth=False))
    assert "aligned 1 of 2 sequences; 1 can't be told" in text
    assert "No sequence that can be judged is misaligned. Of 1 it can't be told" in text
    assert f"Not judged, with too few frames: 1 sequence, such as h36m S1 Walking 1 [{CAMERAS[0]}]" in text
    assert "3 frames with a detection and a usable annotation, where 5 are needed" in text


def test_a_misfit_is_an_alarm(walk: Walk, tmp_path: Path) -> None:
    with h5py.File(walk.annotation(CAMERAS[0]), "a") as ds:
        joints = np.asarray(ds["keypoints_2d"][:])
        ds["keypoints_2d"][:] = 2 * joints[:, :1] - joints
    ask_the_judge(walk)
    page = write_report(walk.work, "h36m", tmp_path / "r.html", depth=False)
    (alarm,) = re.findall(r'<div class="alarm">(.*?)</div>', page.read_text(), flags=re.S)
    assert "no known fault explains it" in alarm
    assert '<td class="text bad">misfit</td>' in page.read_text()


def test_misaligned_sequences_are_named(walk: Walk, tmp_path: Path) -> None:
    with h5py.File(walk.annotation(CAMERAS[1]), "a") as ds:
        ds["keypoints_2d"][:] = np.asarray(ds["keypoints_2d"][:])[:, SWAP]
    ask_the_judge(walk)
    text = text_of(write_report(walk.work, "h36m", tmp_path / "r.html", depth=False))
    assert f"1 sequence is misaligned: h36m S1 Walking 1 [{CAMERAS[1]}]: left and right are exchanged" in text
    assert "1 of 2 sequences" in text


def test_what_cannot_be_told_is_said_and_no_alarm(walk: Walk, tmp_path: Path) -> None:
    for camera in CAMERAS:
        with h5py.File(walk.annotation(camera), "a") as ds:
            ds["valid_annotation"][:] = np.arange(40) < 10
    ask_the_judge(walk)
    text = text_of(write_report(walk.work, "h36m", tmp_path / "r.html", depth=False))
    assert "Left open for 2 sequences: shift (annotations of other moments" in text
    assert re.search(r"shift: \d+ frames tell, where 16 are needed", text)
    assert "Shift of each sequence" not in text
    assert "No sequence is misaligned." in text
    assert "2 leave something open" in text


def without_truth(walk: Walk) -> None:
    for camera in CAMERAS:
        path = walk.annotation(camera)
        ds = xr.load_dataset(path, engine="netcdf4")
        names = ("keypoints_2d", "keypoints_3d", "visibility", "center", "scale")
        ds.drop_vars([*names, "joint", "image_axis", "camera_axis"]).to_netcdf(path, engine="netcdf4")


def test_without_ground_truth(walk: Walk, tmp_path: Path) -> None:
    without_truth(walk)
    page = write_report(walk.work, "h36m", tmp_path / "r.html", depth=False)
    text = text_of(page)
    assert "80 of 80 frames have a person" in text
    assert "Ranked by the mean confidence" in text
    for absent in ("2D error", "PCK", "ground truth (median", "Alignment"):
        assert absent not in text
    assert "Confidence of all joints" in text
    assert page.read_text().count('<img src="data:image/jpeg;base64,') == 9


def test_data_that_are_gone_cost_the_pictures_only(walk: Walk, tmp_path: Path) -> None:
    (run,) = walk.work.glob("h36m/features/*/run.json")
    run.write_text(json.dumps({**json.loads(run.read_text()), "root": str(tmp_path / "gone")}))
    page = write_report(walk.work, "h36m", tmp_path / "r.html")
    assert "data:image/jpeg" not in re.sub(r"<script\b.*?</script>", "", page.read_text(), flags=re.S)
    assert "not shown: its folder isn't there any more" in text_of(page)


def test_a_sample_of_a_large_dataset(walk: Walk, tmp_path: Path) -> None:
    material = gather(walk.work, "h36m", most_rows=20)
    assert len(material.rows) == 20
    assert material.total == 80
    assert np.bincount(material.rows.sequence).tolist() == [10, 10]
    page = write_report(walk.work, "h36m", tmp_path / "r.html", depth=False, most_rows=20)
    assert "Figures and plots are of 20 frames" in text_of(page)
    assert "80 of 80 frames" in text_of(page)


def test_nobody_at_all(walk: Walk, tmp_path: Path) -> None:
    for camera in CAMERAS:
        lose(walk, camera, range(walk.frames), Status.DECODE_ERROR, "cannot decode")
    text = text_of(write_report(walk.work, "h36m", tmp_path / "r.html"))
    assert "0 of 80 frames have a person" in text
    assert "decode_error: 80 in 2 sequences" in text
    assert "No frame has a whole person." in text


def test_what_cannot_be_reported_is_refused(walk: Walk, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="none in"):
        write_report(tmp_path / "nothing", None, tmp_path / "r.html")
    (receipts,) = walk.work.glob("h36m/features/*/receipts.jsonl")
    receipts.unlink()
    with pytest.raises(WorkspaceError, match="finished frames"):
        write_report(walk.work, None, tmp_path / "r.html")


def test_the_verb(walk: Walk) -> None:
    made = CliRunner().invoke(app, ["report", "--workspace", str(walk.work), "--no-depth"])
    assert made.exit_code == 0, made.output
    path = walk.work / "h36m" / "report.html"
    assert made.output.strip() == str(path)
    assert path.exists()
