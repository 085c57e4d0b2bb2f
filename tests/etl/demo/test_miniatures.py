"""Miniatures of 3DPW, MPI-INF-3DHP and Fit3D on disk: the releases' layouts, with their traps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from etl.datasets.fit3d import Fit3D
from etl.datasets.mpi_inf_3dhp.reader import MpiInf3DHP
from etl.datasets.sampling import picture_size
from etl.datasets.threedpw.reader import ThreeDPW
from etl.datasets.threedpw.unpickle import read_pickle
from etl.demo import fit3d, mpi_inf_3dhp, threedpw
from etl.demo.miniature import Plan, render
from etl.demo.truth import SequenceTruth, read_truth
from etl.errors import ConfigError
from etl.media.frames import frame_count

FRAMES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("miniatures")
    render(found / "3dpw", threedpw.Plan(frames=FRAMES, scale=0.1), workers=1)
    render(found / "3dhp", mpi_inf_3dhp.Plan(frames=FRAMES, scale=0.1), workers=1)
    render(found / "fit3d", fit3d.Plan(frames=FRAMES, scale=0.2), workers=1)
    return found


def test_3dpw_s_cameras_move_and_its_traps_are_there(folder: Path) -> None:
    sequences = ThreeDPW(folder / "3dpw").sequences()
    assert {s.split for s in sequences} == {"train", "validation", "test"}
    shapes, people = set(), set()
    for sequence in sequences:
        values = read_pickle(folder / "3dpw" / sequence.files["pickle"])
        truth = SequenceTruth.read(read_truth(folder / "3dpw")[sequence.key])
        people.add(len(truth.people))
        assert len(values["jointPositions"]) == len(truth.people)
        assert values["betas"][0].shape == (300,)
        assert values["betas"][-1].shape == ((10,) if len(truth.people) == 2 else (300,))
        valid = np.stack(values["campose_valid"])
        assert not valid[:, threedpw.BAD_POSE].any()
        assert valid.sum() == valid.size - len(valid)
        unseen = np.abs(np.stack(values["poses2d"])).max((2, 3)) == 0
        assert np.argwhere(unseen).tolist() == [[len(valid) - 1, threedpw.UNSEEN]]
        places = [-m[:3, :3].T @ m[:3, 3] for i, m in enumerate(values["cam_poses"]) if i != threedpw.BAD_POSE]
        assert (np.linalg.norm(np.diff(places, axis=0), axis=1) > 0.005).all()
        assert truth.camera.rotation is None
        assert len(truth.rooms) == FRAMES
        width, height = picture_size(folder / "3dpw", sequence.media) or (0, 0)
        assert (2 * values["cam_intrinsics"][:2, 2]).tolist() == [width, height]
        shapes.add(width > height)
    assert shapes == {True, False}
    assert people == {1, 2}


def test_mpi_inf_3dhp_has_videos_images_and_both_kinds_of_matlab(folder: Path) -> None:
    root = folder / "3dhp"
    sequences = {str(s.key): s for s in MpiInf3DHP(root, cameras=["0", "4"]).sequences()}
    kinds = {key: s.media.kind for key, s in sequences.items()}
    assert {kind for key, kind in kinds.items() if "S1 Seq1" in key} == {"video"}
    assert {kind for key, kind in kinds.items() if "S2 Seq1" in key} == {"images"}
    counts = {key: frame_count(root, s.media) for key, s in sequences.items()}
    assert counts.pop("3dhp S1 Seq1 [4]") == FRAMES - 1  # cut short
    assert set(counts.values()) == {FRAMES}
    tests = {s.key.subject: s for s in sequences.values() if s.split == "test"}
    assert picture_size(root, tests["TS1"].media) == (204, 204)
    assert picture_size(root, tests["TS5"].media) == (192, 108)
    assert tests["TS5"].media.pattern == "TS5_{number:06d}.jpg"
    values = scipy.io.loadmat(root / "S1" / "Seq1" / "annot.mat")
    assert values["annot2"].shape == (14, 1)
    with h5py.File(root / "mpi_inf_3dhp_test_set" / "TS1" / "annot_data.mat") as file:
        assert file["annot3"].shape == (FRAMES, 1, 17, 3)
        valid = file["valid_frame"][:, 0] > 0
        assert (valid == mpi_inf_3dhp.valid_frames(FRAMES)).all()
        assert np.isfinite(file["annot3"][valid]).all()
        assert not np.isfinite(file["annot3"][~valid]).all()
    text = (root / "mpi_inf_3dhp_test_set" / "test_util" / "camera_calibration" / "ts5-6cameras.calib").read_text()
    assert "-0.27" in text
    # The world's y is up: heads are above pelves by y, in every camera's own calibration.
    for key in ("3dhp S1 Seq1 [0]", "3dhp S2 Seq1 [4]"):
        ds = MpiInf3DHP(root).annotate(sequences[key])
        camera = json.loads(ds.attrs["camera_parameters"])
        points = ds["keypoints_3d"].values @ np.array(camera["rotation"])
        assert (points[:, 10, 1] - points[:, 3, 1] > 1.4).all()


def test_mpi_inf_3dhp_s_demo_has_rows_beyond_the_stated_frames(tmp_path: Path) -> None:
    assert mpi_inf_3dhp.DEMO.beyond > 0
    plan = replace(mpi_inf_3dhp.DEMO, subjects=("S2",), cameras=("0",), tests=("TS1",), frames=3, scale=0.05)
    render(tmp_path, plan, workers=1)
    reader = MpiInf3DHP(tmp_path, subjects=["S2"], cameras=["0"])
    (sequence,) = reader.sequences()
    ds = reader.annotate(sequence)
    assert ds["frame_number"].values.tolist() == [0, 1]
    assert json.loads(ds.attrs["provenance"])["notes"] == [
        "6505 rows, of which the release states 6502: the others are left out",
        "6502 poses, 2 frames: the last 6500 poses are left out",
    ]


def test_fit3d_has_unlabelled_subjects_and_longer_videos(folder: Path) -> None:
    root = folder / "fit3d"
    sequences = Fit3D(root).sequences()
    assert {(s.key.subject, s.split) for s in sequences} == {("s02", "unlabelled"), ("s03", "train"), ("s10", "test")}
    for sequence in sequences:
        longer = sequence.key.camera == "50591643"
        assert frame_count(root, sequence.media) == FRAMES + longer
    joints = json.loads((root / "train" / "s03" / "joints3d_25" / "walk_the_box.json").read_text())["joints3d_25"]
    assert np.shape(joints) == (FRAMES, 25, 3)
    assert not (root / "test" / "s02" / "joints3d_25").exists()
    # The lens bends: a straight projection of the same joints lies elsewhere.
    ds = Fit3D(root, hz=50).annotate(next(s for s in sequences if s.key.subject == "s03"))
    points = ds["keypoints_3d"].values
    camera = json.loads(ds.attrs["camera_parameters"])
    straight = points[..., :2] / points[..., 2:] * camera["focal"] + camera["center"]
    assert np.abs(straight - ds["keypoints_2d"].values).max() > 0.2


def test_a_miniature_of_another_dataset_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="3dpw with"):
        render(folder / "3dpw", fit3d.Plan(frames=FRAMES), workers=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (threedpw.Plan(names=("downtown_flying_00",)), "courtyard_meeting_00"),
        (mpi_inf_3dhp.Plan(tests=("TS7",)), "TS1"),
        (mpi_inf_3dhp.Plan(cameras=("14",)), "13"),
        (fit3d.Plan(subjects=("s02",)), "s03"),
        (fit3d.Plan(scale=5.0), "scale"),
    ],
)
def test_what_isn_t_in_a_release_is_refused(tmp_path: Path, wrong: Plan, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(tmp_path / "new", wrong, workers=1)
    assert not (tmp_path / "new").exists()
