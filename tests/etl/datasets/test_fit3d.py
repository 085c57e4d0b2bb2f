import functools
import json
import re

import numpy as np
import pytest

from etl.datasets.fit3d import Fit3D, read_camera
from etl.demo import fit3d
from etl.demo.raw_joints import facing, imar_25
from etl.demo.raw_media import write_video
from etl.errors import DatasetError
from schemas import annotation
from schemas.camera import Camera
from schemas.skeletons import H36M_17
from tests.etl.datasets.people import looking_at, moved, people

POSES = 8
SIZE = 90  # of the videos, a tenth of the release's, with the intrinsics shrunk alike
FOCAL, CENTER = (103.9, 103.5), (47.6, 44.9)
RADIAL, TANGENTIAL = (-0.207, 0.247, -0.003), (-0.0014, -0.00098)
PLACES = {"50591643": (4.0, 3.0, 1.5), "60457274": (-4.0, -3.5, 1.6)}


@functools.cache
def world():
    return people(POSES, seed=2)


def matrix(camera):
    return looking_at(PLACES[camera], (0.05, 0.0, 0.95))


def camera_of(name, place="50591643", focal=FOCAL, center=CENTER):
    pose = matrix(place)
    rotation = tuple(map(tuple, pose[:3, :3].tolist()))
    return Camera(
        name, SIZE, SIZE, focal, center, "h36m", RADIAL, TANGENTIAL, rotation, tuple(pose[:3, 3].tolist())
    )  # fmt: skip


def distorted(points):
    """Pixels of camera coordinates by Human3.6M's formula, written out joint by joint."""
    (k1, k2, k3), (p1, p2) = RADIAL, TANGENTIAL
    flat = []
    for x, y, z in points.reshape(-1, 3):
        u, v = x / z, y / z
        r2 = u**2 + v**2
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        tangential = p1 * v + p2 * u
        flat.append(
            [
                FOCAL[0] * (u * (radial + tangential) + r2 * p2) + CENTER[0],
                FOCAL[1] * (v * (radial + tangential) + r2 * p1) + CENTER[1],
            ]
        )
    return np.array(flat).reshape(*points.shape[:-1], 2)


def write(root, subject="s03", action="squat", cameras=("50591643",), frames=POSES, joints=None):
    """An action of a training subject as released, with videos of `frames` frames, or none."""
    fit3d.write_joints(root, subject, action, imar_25(world()) if joints is None else joints)
    for camera in cameras:
        fit3d.write_camera(root, subject, action, camera_of(camera, camera))
        if frames:
            video(fit3d.video_path(root, subject, action, camera), frames)


def video(path, frames, size=SIZE):
    write_video(path, [np.zeros((size, size, 3), np.uint8)] * frames, 50)


def write_unlabelled(root, subject="s02", action="squat", frames=POSES):
    fit3d.write_camera(root, subject, action, camera_of("any"), labelled=False)
    video(fit3d.video_path(root, subject, action, None), frames)


@pytest.mark.parametrize("camera", list(PLACES))
def test_joints_are_the_worlds_seen_by_the_distorting_camera(tmp_path, camera):
    write(tmp_path, cameras=[camera])
    reader = Fit3D(tmp_path, hz=50)
    [sequence] = reader.sequences()
    ds = reader.annotate(sequence)
    expected = moved(matrix(camera), world())
    np.testing.assert_allclose(ds["keypoints_3d"], expected, atol=1e-9)
    np.testing.assert_allclose(ds["keypoints_2d"], distorted(expected), atol=1e-6)
    straight = expected[..., :2] / expected[..., 2:] * FOCAL + CENTER
    assert np.abs(ds["keypoints_2d"].values - straight).max() > 0.05  # the distortion matters
    assert (ds["visibility"] == 1).all()
    assert ds["valid_annotation"].values.all()
    found = annotation.camera_of(ds)
    assert (found.width, found.height, found.distortion) == (SIZE, SIZE, "h36m")
    assert (ds.attrs["split"], ds.attrs["rate_hz"], ds.attrs["media_rate_hz"]) == ("train", 50, 50)
    stem = f"s03_{camera}_squat"
    assert annotation.imgname_of(ds)[2] == f"{stem}/{stem}_000003.jpg"
    assert json.loads(ds.attrs["provenance"])["notes"] == []


def test_legs_are_left_first_in_the_release_and_right_first_here(tmp_path):
    write(tmp_path, cameras=list(PLACES))
    raw = json.loads((tmp_path / "train/s03/joints3d_25/squat.json").read_text())["joints3d_25"]
    left_hip, right_hip = (world()[0, H36M_17.index(f"{side}_hip")] for side in ("left", "right"))
    assert (raw[0][1], raw[0][4]) == (left_hip.tolist(), right_hip.tolist())
    reader = Fit3D(tmp_path)
    directions = set()
    for sequence in reader.sequences():
        joints = reader.annotate(sequence)["keypoints_3d"].values
        at = H36M_17.index
        hips = joints[:, at("right_hip")] - joints[:, at("left_hip")]
        shoulders = joints[:, at("right_shoulder")] - joints[:, at("left_shoulder")]
        assert ((hips * shoulders).sum(-1) > 0).all()
        towards = np.sign(facing(joints)[:, 2])
        assert (np.sign(hips[:, 0]) == towards).all()
        directions |= set(towards.tolist())
    assert directions == {-1.0, 1.0}  # one camera sees the front, the other the back


def test_25_hz_takes_every_second_frame(tmp_path):
    write(tmp_path)
    reader = Fit3D(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    assert ds["frame_number"].values.tolist() == [0, 2, 4, 6]
    assert ds.attrs["rate_hz"] == 25
    whole = Fit3D(tmp_path, hz=50)
    np.testing.assert_array_equal(ds["keypoints_3d"], whole.annotate(whole.sequences()[0])["keypoints_3d"].values[::2])
    with pytest.raises(DatasetError, match="30 Hz"):
        Fit3D(tmp_path, hz=30).sequences()


def test_splits_by_default_and_by_choice(tmp_path):
    for subject in ("s03", "s09", "s10", "s11"):
        write(tmp_path, subject, frames=0)
    write_unlabelled(tmp_path, "s02")

    def splits(**options):
        return {s.key.subject: s.split for s in Fit3D(tmp_path, **options).sequences()}

    assert splits() == {"s02": "unlabelled", "s03": "train", "s09": "train", "s10": "test", "s11": "test"}
    assert splits(train=["s03", "s10"], test=["s11"]) == {
        "s02": "unlabelled",
        "s03": "train",
        "s10": "train",
        "s11": "test",
    }
    assert Fit3D(tmp_path, train=["s03"], test=["s11"]).notes() == [
        "s09 is left out: it is in neither split.",
        "s10 is left out: it is in neither split.",
    ]
    assert list(splits(subjects=["s10"])) == ["s10"]
    with pytest.raises(DatasetError, match="in one split"):
        splits(train=["s03"], test=["s03"])
    with pytest.raises(DatasetError, match="Did you mean"):
        splits(train=["s3"], test=["s11"])
    with pytest.raises(DatasetError, match="subject"):  # without ground truth
        splits(train=["s02"], test=["s11"])
    with pytest.raises(DatasetError, match="camera must be one of"):
        splits(cameras=["1"])


def test_keys_and_both_layouts(tmp_path):
    write(tmp_path / "fit3d_train", "s03", cameras=list(PLACES))
    write_unlabelled(tmp_path / "fit3d_test")
    reader = Fit3D(tmp_path)
    found = reader.sequences()
    assert [(s.key.subject, s.key.action, s.key.subaction, s.key.camera) for s in found] == [
        ("s02", "squat", 0, "0"),
        ("s03", "squat", 0, "50591643"),
        ("s03", "squat", 0, "60457274"),
    ]
    assert found[1].media.path == "fit3d_train/train/s03/videos/50591643/squat.mp4"
    assert [reader.annotate(s).sizes["frame"] for s in found] == [4, 4, 4]
    with pytest.raises(DatasetError, match="train/s03"):
        Fit3D(tmp_path / "fit3d_train" / "train").sequences()
    with pytest.raises(DatasetError, match="no such folder"):
        Fit3D(tmp_path / "none").sequences()


def test_test_subjects_have_no_ground_truth(tmp_path):
    write_unlabelled(tmp_path, frames=7)
    reader = Fit3D(tmp_path, hz=50)
    [sequence] = reader.sequences()
    ds = reader.annotate(sequence)
    assert not annotation.has_ground_truth(ds)
    assert ds["frame_number"].values.tolist() == [*range(7)]
    assert not ds["valid_annotation"].values.any()
    assert ds.attrs["split"] == "unlabelled"
    assert annotation.camera_of(ds).focal == FOCAL
    fit3d.video_path(tmp_path, "s02", "squat", None).unlink()
    with pytest.raises(DatasetError, match="without ground truth must have a video"):
        reader.annotate(sequence)


@pytest.mark.parametrize(("frames", "rows", "note"), [(11, 8, "3 frames without a pose"), (5, 5, "3 poses")])
def test_rows_end_with_the_shorter_of_poses_and_video(tmp_path, frames, rows, note):
    write(tmp_path, frames=frames)
    reader = Fit3D(tmp_path, hz=50)
    ds = reader.annotate(reader.sequences()[0])
    assert ds.sizes["frame"] == rows
    assert note in json.loads(ds.attrs["provenance"])["notes"][0]


@pytest.mark.parametrize(("size", "refused"), [(SIZE, False), (64, True), (128, True)])
def test_resized_videos_are_refused(tmp_path, size, refused):
    write(tmp_path, frames=None)
    video(fit3d.video_path(tmp_path, "s03", "squat", "50591643"), POSES, size)
    reader = Fit3D(tmp_path)
    [sequence] = reader.sequences()
    if not refused:
        assert reader.annotate(sequence).sizes["frame"] == 4
        return
    with pytest.raises(DatasetError, match=f"middle of frames of {size}x{size}"):
        reader.annotate(sequence)


def test_rows_behind_the_camera_are_not_usable(tmp_path):
    joints = imar_25(world())
    towards = np.array(PLACES["50591643"]) - [0.05, 0.0, 0.95]
    joints[2] += 3 * towards
    write(tmp_path, joints=joints)
    reader = Fit3D(tmp_path, hz=50)
    ds = reader.annotate(reader.sequences()[0])
    assert ds["valid_annotation"].values.tolist() == [n != 2 for n in range(POSES)]
    assert np.isnan(ds["keypoints_2d"].values[2]).all()
    assert (ds["keypoints_3d"].values[2, :, 2] < 0).all()


@pytest.mark.parametrize(("frames", "refused"), [(8, False), (4, False), (2, True)])
def test_the_early_release_with_four_poses_a_frame_is_refused_by_name(tmp_path, frames, refused):
    write(tmp_path, frames=frames)
    reader = Fit3D(tmp_path)
    [sequence] = reader.sequences()
    if not refused:
        assert reader.annotate(sequence).sizes["frame"] == frames // 2
        return
    with pytest.raises(DatasetError, match="one pose per video frame") as caught:
        reader.annotate(sequence)
    assert "8 poses for 2 frames, 4 a frame" in caught.value.found
    assert "early release" in caught.value.fix
    assert "joints3d_25" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path)
    reader = Fit3D(tmp_path)
    [sequence] = reader.sequences()
    for part in ("joints3d_25", "camera_parameters/50591643"):
        path = tmp_path / "train" / "s03" / part / "squat.json"
        content = path.read_text()
        path.unlink()
        with pytest.raises(DatasetError, match=rf"{part}/squat\.json must be a file"):
            reader.annotate(reader.sequences()[0])  # its video still lists it
        path.write_text(content)
    assert reader.annotate(sequence).sizes["frame"] == 4


def with_hole():
    joints = imar_25(world()).tolist()
    joints[3][7][1] = float("nan")
    return joints


JOINT_FAULTS = {
    "truncated": ('{"joints3d_25": [[[1, 2', "readable JSON file", "JSONDecodeError"),
    "empty": ("", "at least 1 bytes", "0 bytes"),
    "a list": ("[1]", "must be a JSON object", "list"),
    "other variable": ('{"joints3d": []}', "have 'joints3d_25'", "nearest is 'joints3d'"),
    "17 joints": (json.dumps({"joints3d_25": np.zeros((4, 17, 3)).tolist()}), r"\(F, 25, 3\)", r"\(4, 17, 3\)"),
    "no frames": ('{"joints3d_25": []}', r"\(F, 25, 3\)", r"\(0,\)"),
    "ragged": ('{"joints3d_25": [[[1, 2, 3]], [[1, 2]]]}', r"\(F, 25, 3\)", "ragged"),
    "nan": (json.dumps({"joints3d_25": with_hole()}), "finite everywhere", r"\(3, 7, 1\)"),
    "text": (json.dumps({"joints3d_25": [[["x", "y", "z"]] * 25]}), "dtype", "U1"),
    "a number": ('{"joints3d_25": 3}', r"\(F, 25, 3\)", r"\(\)"),
}


@pytest.mark.parametrize("name", JOINT_FAULTS)
def test_malformed_joints(tmp_path, name):
    content, rule, found = JOINT_FAULTS[name]
    write(tmp_path)
    path = tmp_path / "train" / "s03" / "joints3d_25" / "squat.json"
    path.write_text(content)
    reader = Fit3D(tmp_path)
    with pytest.raises(DatasetError, match=rule) as caught:
        reader.annotate(reader.sequences()[0])
    assert str(path) in caught.value.rule
    assert re.search(found, caught.value.found)


def change(group, key, value):
    def apply(values):
        values[group] = values[group] | {key: value} if key else value

    return apply


CAMERA_FAULTS = {
    "no extrinsics": (lambda v: v.pop("extrinsics"), "have 'extrinsics'", "intrinsics_w"),
    "no distortion": (lambda v: v["intrinsics_w_distortion"].pop("k"), "have 'k'", "only c, f, p"),
    "extrinsics is a list": (change("extrinsics", None, [1]), "'extrinsics'.* JSON object", "list"),
    "R is flat": (change("extrinsics", "R", [1.0] * 9), r"'R'.*\(3, 3\)", r"\(9,\)"),
    "R is no rotation": (change("extrinsics", "R", (2 * np.eye(3)).tolist()), "must be a rotation", "3"),
    "R mirrors": (change("extrinsics", "R", np.diag([1.0, -1, 1]).tolist()), "determinant", "mirror"),
    "T is short": (change("extrinsics", "T", [[1.0, 2]]), r"'T'.*\(3,\)", r"\(2,\)"),
    "T is ragged": (change("extrinsics", "T", [[1.0, 2], [3]]), r"'T'.*\(3,\)", "ragged"),
    "f is infinite": (change("intrinsics_w_distortion", "f", [[float("inf"), 1.0]]), "finite", "inf"),
    "f is negative": (change("intrinsics_w_distortion", "f", [[-100.0, 100]]), "look at the middle", "-100"),
    "of a larger video": (change("intrinsics_w_distortion", "c", [[476.0, 449]]), "frames of 90x90", "476"),
}


@pytest.mark.parametrize("name", CAMERA_FAULTS)
def test_malformed_cameras(tmp_path, name):
    spoil, rule, found = CAMERA_FAULTS[name]
    write(tmp_path)
    path = tmp_path / "train" / "s03" / "camera_parameters" / "50591643" / "squat.json"
    values = json.loads(path.read_text())
    spoil(values)
    path.write_text(json.dumps(values))
    reader = Fit3D(tmp_path)
    with pytest.raises(DatasetError, match=rule) as caught:
        reader.annotate(reader.sequences()[0])
    assert str(path) in caught.value.rule
    assert re.search(found, caught.value.found)


def test_a_camera_file_that_is_no_object(tmp_path):
    path = tmp_path / "camera.json"
    path.write_text("[]")
    with pytest.raises(DatasetError, match="must be a JSON object"):
        read_camera(path, "0", None)


LEGS = [0, 4, 5, 6, 1, 2, 3, *range(7, 25)]
WRONG = {
    "millimetres": (lambda j: 1000 * j, "0.2 to 0.7 m"),
    "h36m's order": (lambda j: j[:, LEGS], "same side"),
    "mirrored": (lambda j: j * [-1, 1, 1], "at the front of the bodies"),
    "elsewhere": (lambda j: j + np.array([0, 0, 5]), "inside the image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_geometry_that_cannot_be_is_refused_with_its_figure(tmp_path, name):
    spoil, rule = WRONG[name]
    write(tmp_path, joints=spoil(imar_25(world())))
    reader = Fit3D(tmp_path)
    with pytest.raises(DatasetError, match=rule) as caught:
        reader.annotate(reader.sequences()[0])
    assert "squat.json" in caught.value.rule
    assert re.search(r"\d", caught.value.found)


def test_translation_taken_for_the_centre_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "train" / "s03" / "camera_parameters" / "50591643" / "squat.json"
    values = json.loads(path.read_text())
    values["extrinsics"]["T"] = [matrix("50591643")[:3, 3].tolist()]
    path.write_text(json.dumps(values))
    reader = Fit3D(tmp_path)
    with pytest.raises(DatasetError, match="inside the image"):
        reader.annotate(reader.sequences()[0])
