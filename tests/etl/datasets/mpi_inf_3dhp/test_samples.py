import pickle

import numpy as np
import pytest

from etl.datasets.mpi_inf_3dhp.calibration import read_test_calibration
from etl.datasets.mpi_inf_3dhp.reader import CAMERA_SETS, MpiInf3DHP, fitting_camera
from etl.demo import mpi_inf_3dhp
from etl.stages.annotate import annotate
from etl.stages.files.mmpose import export_mmpose
from schemas.camera import Camera
from schemas.skeletons_raw import (
    MPI_INF_3DHP_17_TO_H36M,
    MPI_INF_3DHP_28_TO_17,
)
from tests.etl.stages.test_annotate import list_annotations


def sample(samples, split):
    with np.load(samples / "3dhp" / f"test_3dhp_{split}.npz", allow_pickle=False) as file:
        values = {name: file[name] for name in file.files}
    cameras = pickle.loads((samples / "3dhp" / f"cameras_{split}.pkl").read_bytes())
    return values, cameras


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_joints_project_onto_the_real_2d_joints(samples, split):
    values, cameras = sample(samples, split)
    for i, name in enumerate(values["imgname"].tolist()):
        entry = cameras[name.rpartition("_")[0]]
        camera = Camera("0", 2048, 2048, tuple(entry["f"][:, 0]), tuple(entry["c"][:, 0]))
        off = np.abs(camera.project(values["S"][i, :, :3]) - values["part"][i, :, :2])
        assert off.max() < 2
        assert np.median(off) < 0.2


def test_real_joints_have_sides_and_faces_in_h36m_order(samples):
    for split in ("train", "test"):
        values, _ = sample(samples, split)
        joints = values["S"][:, list(MPI_INF_3DHP_17_TO_H36M), :3]
        assert (((joints[:, 14] - joints[:, 11]) * (joints[:, 1] - joints[:, 4])).sum(-1) > 0).all()
        back = np.cross(joints[:, 1] - joints[:, 4], joints[:, 8] - joints[:, 0])
        assert ((back * (joints[:, 9] - joints[:, 8])).sum(-1) < 0).all()
        middle = (joints[:, 1] + joints[:, 4]) / 2
        np.testing.assert_allclose(joints[:, 0], middle, atol=0.02)


def exported(reader, folder, split):
    manifest = annotate(reader, folder / "annotations", workers=1)
    assert manifest.failures == {}
    export = export_mmpose(list_annotations(folder / "annotations"), folder, "3dhp", split)
    with np.load(export.npz, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}, pickle.loads(export.cameras_pickle.read_bytes())


def equal_row(found, expected, i):
    [row] = np.flatnonzero(found["imgname"] == expected["imgname"][i])
    for name in ("center", "scale", "part", "S"):
        np.testing.assert_allclose(found[name][row], expected[name][i], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("i", [0, 1])
def test_training_export_has_mmposes_own_numbers(samples, tmp_path, i):
    expected, cameras = sample(samples, "train")
    stem, _, number = expected["imgname"][i].removesuffix(".jpg").rpartition("_")
    subject, action, camera = stem.split("_")
    camera, frames = int(camera.removeprefix("Cam")), int(number)
    pixels, points = np.zeros((14, frames, 28, 2)), np.zeros((14, frames, 28, 3))
    order = list(MPI_INF_3DHP_28_TO_17)
    pixels[camera][:, order] = expected["part"][i, :, :2]
    points[camera][:, order] = expected["S"][i, :, :3]
    folder = tmp_path / subject / action
    mpi_inf_3dhp.write_annotations(folder / "annot.mat", pixels, points)
    entries = [cameras[f"{subject}_{action}_Cam{n if n in CAMERA_SETS['vnect'] else 0}"] for n in range(14)]
    calibrated = [
        Camera(
            str(n), 2048, 2048, tuple(e["f"][:, 0]), tuple(e["c"][:, 0]),
            rotation=tuple(map(tuple, e["R"].tolist())), translation=tuple(e["T"][:, 0]),
        )
        for n, e in enumerate(entries)
    ]  # fmt: skip
    mpi_inf_3dhp.write_calibration(folder / "camera.calibration", calibrated)
    found, exported_cameras = exported(MpiInf3DHP(tmp_path, cameras=[str(camera)]), tmp_path, "train")
    equal_row(found, expected, i)
    for name in ("R", "T", "c", "f"):
        np.testing.assert_allclose(exported_cameras[stem][name], cameras[stem][name], rtol=1e-12)


@pytest.mark.parametrize("i", [0, 1])
def test_test_export_has_mmposes_own_numbers(samples, tmp_path, i):
    expected, cameras = sample(samples, "test")
    subject, _, number = expected["imgname"][i].removesuffix(".jpg").rpartition("_")
    frames = int(number)
    home = tmp_path / "test"
    mpi_inf_3dhp.write_test_annotations(
        home / subject / "annot_data.mat",
        np.broadcast_to(expected["part"][i, :, :2], (frames, 17, 2)),
        np.broadcast_to(expected["S"][i, :, :3], (frames, 17, 3)),
        np.ones(frames, bool),
        np.ones(frames, int),
    )
    (home / "ts1-4cameras.calib").write_bytes((samples / "3dhp" / "ts1-4cameras.calib").read_bytes())
    found, exported_cameras = exported(MpiInf3DHP(tmp_path), tmp_path, "test")
    equal_row(found, expected, i)
    # One pose tells focal lengths less well than MMPose's whole sequence.
    np.testing.assert_allclose(exported_cameras[subject]["c"], cameras[subject]["c"], atol=12)
    np.testing.assert_allclose(exported_cameras[subject]["f"], cameras[subject]["f"], rtol=0.01)


def test_the_calibration_fits_ts1_and_not_ts2(samples, tmp_path):
    values, _ = sample(samples, "test")
    order = list(MPI_INF_3DHP_17_TO_H36M)
    points, pixels = values["S"][:, order, :3], values["part"][:, order, :2]
    camera, _ = read_test_calibration(samples / "3dhp" / "ts1-4cameras.calib", "0", (2048, 2048))
    kept, checks, notes = fitting_camera(tmp_path, camera, points[:1], pixels[:1])
    assert kept == camera
    assert checks["projection_px"]["median"] < 0.01
    assert notes == []
    fitted, checks, notes = fitting_camera(tmp_path, camera, points[1:], pixels[1:])
    assert fitted != camera
    assert checks["projection_px"]["p95"] < 2.5
    assert "is off by" in notes[0]
