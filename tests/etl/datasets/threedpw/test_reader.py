import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from etl.datasets.threedpw.reader import ThreeDPW, sequence_key, sequence_name
from etl.datasets.threedpw.unpickle import read_pickle
from etl.demo import threedpw
from etl.demo.raw_joints import facing, openpose_18, smpl_24
from etl.errors import DatasetError
from schemas import annotation
from schemas.skeletons import H36M_17
from schemas.skeletons_raw import SMPL_24
from tests.etl.datasets.people import looking_at, moved, people, pinhole

FRAMES = 6
PORTRAIT = np.array([[1962.0, 0, 540], [0, 1969.0, 960], [0, 0, 1]])
LANDSCAPE = np.array([[1962.0, 0, 960], [0, 1969.0, 540], [0, 0, 1]])
NAME = "downtown_walking_00"


def world(count: int, frames: int = FRAMES):
    """H36M joints (P, F, 17, 3) and world-to-camera matrices (F, 4, 4) of a camera that moves."""
    bodies = np.stack([people(frames, (0.9 * p, 0.4 * p, 0), seed=p) for p in range(count)])
    cameras = np.stack([looking_at((0.3 + 0.05 * f, 6.0, 1.5), (0.4, 0.0, 1.0)) for f in range(frames)])
    return bodies, cameras


def write(root, split="train", name=NAME, count=1, intrinsics=PORTRAIT, images=FRAMES, **changes):
    """A sequence as released; returns what is true of it."""
    bodies, cameras = world(count)
    smpl = smpl_24(bodies)
    in_camera = np.stack([[moved(cameras[f], person[f]) for f in range(FRAMES)] for person in smpl])
    values = {
        "joints": smpl,
        "cam_poses": cameras,
        "intrinsics": intrinsics,
        "poses2d": openpose_18(in_camera, pinhole(intrinsics, in_camera)),
    }
    values |= {key: change(values.get(key)) if callable(change) else change for key, change in changes.items()}
    path = threedpw.write_sequence(root, split, name, **values)
    wide, high = (2 * intrinsics[:2, 2]).astype(int)
    threedpw.write_images(root, name, [np.zeros((high, wide, 3), np.uint8)] * images)
    return path, in_camera


def truth_17(smpl_in_camera):
    """H36M_17 joints by name, written out."""
    at = SMPL_24.index
    names = [
        "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine2", "neck",
        "head", None, "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
    ]  # fmt: skip
    neck, head = smpl_in_camera[..., at("neck"), :], smpl_in_camera[..., at("head"), :]
    return np.stack([smpl_in_camera[..., at(n), :] if n else neck + 1.9 * (head - neck) for n in names], axis=-2)


@pytest.mark.parametrize(("intrinsics", "size"), [(PORTRAIT, (1080, 1920)), (LANDSCAPE, (1920, 1080))])
def test_two_people_become_two_rows_a_frame_in_camera_coordinates(tmp_path, intrinsics, size):
    _, in_camera = write(tmp_path, count=2, intrinsics=intrinsics, shape_parameters=(300, 10))
    reader = ThreeDPW(tmp_path)
    [sequence] = reader.sequences()
    ds = reader.annotate(sequence)
    assert ds["person"].values.tolist() == [0] * FRAMES + [1] * FRAMES
    assert ds["frame_number"].values.tolist() == [*range(FRAMES)] * 2
    expected = truth_17(in_camera).reshape(-1, 17, 3)
    np.testing.assert_allclose(ds["keypoints_3d"], expected, atol=1e-9)
    np.testing.assert_allclose(ds["keypoints_2d"], pinhole(intrinsics, expected), atol=1e-6)
    assert ds["valid_annotation"].values.all()
    assert (ds["visibility"].values == 1).all()
    camera = annotation.camera_of(ds)
    assert (camera.width, camera.height) == size
    assert camera.focal == (1962.0, 1969.0)
    assert camera.rotation is None  # it changes every frame
    assert "jointPositions" in ds.attrs["joint_source"]
    assert annotation.imgname_of(ds)[0] == f"{NAME}/image_00000.jpg"
    assert (sequence.media.image_path(tmp_path, 5)).is_file()
    provenance = json.loads(ds.attrs["provenance"])
    assert provenance["notes"] == []
    assert provenance["checks"]["distance_from_detections"]["p50"] < 1e-6


def test_world_coordinates_can_be_had_again(tmp_path):
    valid = np.ones((2, FRAMES), bool)
    valid[1, 2] = False
    write(tmp_path, count=2, campose_valid=valid)
    reader = ThreeDPW(tmp_path)
    reader.annotate(reader.sequences()[0]).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "a.nc", engine="netcdf4") as ds:
        annotation.validate(ds)
        rotation, translation = ds["camera_rotation"].values, ds["camera_translation"].values
        points = ds["keypoints_3d"].values
    assert rotation.shape == (2 * FRAMES, 3, 3)
    unknown = np.isnan(rotation).all((1, 2))
    assert unknown.tolist() == np.isnan(translation).all(1).tolist() == [n == FRAMES + 2 for n in range(2 * FRAMES)]
    # X_w = Rᵀ (X_c − t)
    found = np.einsum("fji,fnj->fni", rotation, points - translation[:, None])
    assert np.ptp(translation[:FRAMES], axis=0).max() > 0.01  # it moves
    hips = [H36M_17.index(f"{side}_hip") for side in ("left", "right")]
    bodies = world(2)[0].reshape(-1, 17, 3)
    np.testing.assert_allclose(found[~unknown][:, hips], bodies[~unknown][:, hips], atol=1e-9)


def test_sides_and_front_survive_the_way_through_the_camera(tmp_path):
    write(tmp_path)
    reader = ThreeDPW(tmp_path)
    joints = reader.annotate(reader.sequences()[0])["keypoints_3d"].values
    at = H36M_17.index
    shoulders = joints[:, at("right_shoulder")] - joints[:, at("left_shoulder")]
    hips = joints[:, at("right_hip")] - joints[:, at("left_hip")]
    assert ((shoulders * hips).sum(-1) > 0).all()
    # The camera stands in front: facing it is towards -z, and the person's right is on the image's left.
    assert (facing(joints)[:, 2] < -0.8).all()
    assert (joints[:, at("right_hip"), 0] < joints[:, at("left_hip"), 0]).all()


def test_head_top_is_where_the_figure_has_it(tmp_path):
    bodies, cameras = world(1)
    write(tmp_path)
    reader = ThreeDPW(tmp_path)
    found = reader.annotate(reader.sequences()[0])["keypoints_3d"].values
    same = [i for i in range(17) if i != H36M_17.index("neck_base")]
    for f in range(FRAMES):
        np.testing.assert_allclose(found[f][same], moved(cameras[f], bodies[0, f])[same], atol=1e-9)


def test_invalid_camera_poses_and_absent_detections(tmp_path):
    valid = np.ones((2, FRAMES), bool)
    valid[0, 2] = False

    def without(poses2d):
        poses2d[1, 4] = 0
        return poses2d

    write(tmp_path, count=2, campose_valid=valid, poses2d=without)
    reader = ThreeDPW(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    expected = np.ones(2 * FRAMES, bool)
    expected[[2, FRAMES + 4]] = False
    assert ds["valid_annotation"].values.tolist() == expected.tolist()
    invalid = ds.isel(frame=2)
    assert np.isnan(invalid["keypoints_3d"]).all()
    assert np.isnan(invalid["keypoints_2d"]).all()
    assert (invalid["visibility"] == 0).all()
    assert np.isnan(invalid["scale"])
    undetected = ds.isel(frame=FRAMES + 4)
    assert np.isfinite(undetected["keypoints_3d"]).all()
    assert (undetected["visibility"] == 1).all()
    annotation.validate(ds)


def test_camera_poses_that_nobody_uses_may_be_anything(tmp_path):
    valid = np.ones((1, FRAMES), bool)
    valid[0, 3] = False

    def spoiled(cameras):
        cameras = cameras.copy()
        cameras[3] = np.nan
        return cameras

    write(tmp_path, campose_valid=valid, cam_poses=spoiled)
    reader = ThreeDPW(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    assert ds["valid_annotation"].values.tolist() == [True, True, True, False, True, True]


def test_people_behind_the_camera_are_not_usable(tmp_path):
    def behind(joints):
        joints = joints.copy()
        joints[0, 5] += [0, 20, 0]  # the camera is at y = 6 and looks to -y
        return joints

    def unseen(poses2d):
        poses2d[0, 5] = 0
        return poses2d

    write(tmp_path, joints=behind, poses2d=unseen)
    reader = ThreeDPW(tmp_path)
    row = reader.annotate(reader.sequences()[0]).isel(frame=5)
    assert not row["valid_annotation"]
    assert (row["visibility"] == 0).all()
    assert (row["keypoints_3d"][:, 2] < 0).all()
    assert np.isnan(row["keypoints_2d"]).all()


@pytest.mark.parametrize(("images", "rows", "word"), [(4, 4, "poses"), (9, 6, "frames without a pose")])
def test_rows_end_with_the_shorter_of_poses_and_images(tmp_path, images, rows, word):
    write(tmp_path, images=images)
    reader = ThreeDPW(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    assert ds.sizes["frame"] == rows
    assert word in json.loads(ds.attrs["provenance"])["notes"][0]


def test_the_images_own_size_wins_and_is_noted(tmp_path):
    off_centre = PORTRAIT.copy()
    off_centre[0, 2] = 530
    write(tmp_path, intrinsics=off_centre)
    shutil.rmtree(tmp_path / "imageFiles")
    threedpw.write_images(tmp_path, NAME, [np.zeros((1920, 1080, 3), np.uint8)] * FRAMES)
    reader = ThreeDPW(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    assert annotation.camera_of(ds).width == 1080
    assert "1080x1920" in json.loads(ds.attrs["provenance"])["notes"][0]


@pytest.mark.parametrize(("size", "orientation"), [((540, 960), 1), ((1920, 1080), 1), ((1080, 1920), 6)])
def test_images_that_the_intrinsics_do_not_fit_are_refused(tmp_path, size, orientation):
    write(tmp_path, intrinsics=PORTRAIT)
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: stored lying on its side
    Image.new("RGB", size).save(tmp_path / "imageFiles" / NAME / "image_00000.jpg", exif=exif)
    reader = ThreeDPW(tmp_path)
    with pytest.raises(DatasetError, match="look at the middle of frames"):
        reader.annotate(reader.sequences()[0])


def test_images_stored_on_their_side_are_turned_upright(tmp_path):
    write(tmp_path, intrinsics=PORTRAIT)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1920, 1080)).save(tmp_path / "imageFiles" / NAME / "image_00000.jpg", exif=exif)
    reader = ThreeDPW(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    camera = annotation.camera_of(ds)
    assert (camera.width, camera.height) == (1080, 1920)
    assert json.loads(ds.attrs["provenance"])["notes"] == []


def test_sequences_of_all_splits_with_reversible_keys(tmp_path):
    names = {
        "downtown_walking_01": "train",
        "courtyard_bodyScannerMotions_00": "validation",
        "flat_guitar_01": "test",
        "outdoors_fencing_01": "test",
    }
    for name, split in names.items():
        folder = tmp_path / "sequenceFiles" / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.pkl").touch()  # a listing opens none
    found = ThreeDPW(tmp_path).sequences()
    assert {s.release_name: s.split for s in found} == names
    assert [s.key for s in found] == sorted(s.key for s in found)
    for sequence in found:
        assert sequence_name(sequence.key) == sequence.release_name
    key = sequence_key("downtown_walking_01")
    assert (key.subject, key.action, key.subaction, key.camera) == ("downtown", "walking", 1, "0")
    assert [s.key.subject for s in ThreeDPW(tmp_path, subjects=["flat"]).sequences()] == ["flat"]
    assert [s.key.action for s in ThreeDPW(tmp_path, actions=["fencing"]).sequences()] == ["fencing"]
    with pytest.raises(DatasetError, match="Did you mean 'downtown'"):
        ThreeDPW(tmp_path, subjects=["downtwn"]).sequences()


def test_listings_that_cannot_be(tmp_path):
    with pytest.raises(DatasetError, match="sequenceFiles"):
        ThreeDPW(tmp_path).sequences()
    (tmp_path / "sequenceFiles" / "train").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no pickles"):
        ThreeDPW(tmp_path).sequences()
    (tmp_path / "sequenceFiles" / "train" / "walking.pkl").touch()
    with pytest.raises(DatasetError, match="two digits"):
        ThreeDPW(tmp_path).sequences()
    (tmp_path / "sequenceFiles" / "train" / "walking.pkl").unlink()
    for split in ("train", "test"):
        (tmp_path / "sequenceFiles" / split).mkdir(exist_ok=True)
        (tmp_path / "sequenceFiles" / split / f"{NAME}.pkl").touch()
    with pytest.raises(DatasetError, match="one split"):
        ThreeDPW(tmp_path).sequences()


def spoil(path, **changes):
    """Write a pickle again with other values; None leaves a variable out."""
    values = dict(read_pickle(path)) | changes
    plain = {key: _plain(value) for key, value in values.items() if value is not None}
    path.write_bytes(threedpw.python2_pickle(plain))


def _plain(value):
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return np.asarray(value) if isinstance(value, np.ndarray) else value


def nan_at(array, *index):
    array = array.copy()
    array[index] = np.nan
    return array


MALFORMED = {
    "jointPositions": [
        ([np.zeros((FRAMES, 69))], r"shape \(F, 72\)", r"\(6, 69\)"),  # 23 joints
        ([np.zeros((0, 72))], r"shape \(F, 72\)", r"\(0, 72\)"),
        ([nan_at(np.zeros((FRAMES, 72)), 3, 5)], "finite everywhere", r"\(3, 5\)"),
        (np.zeros((FRAMES, 72)), "list with one entry per person", "_Array|ndarray"),
        ([], "list with one entry per person", "0 entries"),
        (None, "have 'jointPositions'", "only betas"),
        ([np.zeros((FRAMES, 72), int)], "dtype of kind float", "int64"),
    ],
    "poses2d": [
        ([np.zeros((FRAMES, 18, 3))], r"shape \(6, 3, 18\)", r"\(6, 18, 3\)"),
        ([np.zeros((FRAMES, 3, 18))] * 2, "as many people", "2"),
    ],
    "campose_valid": [([np.full(FRAMES, 2)], "0 or 1 everywhere", "2"), ([np.ones(5)], r"shape \(6,\)", r"\(5,\)")],
    "cam_poses": [
        (np.zeros((FRAMES, 3, 4)), r"shape \(6, 4, 4\)", r"\(6, 3, 4\)"),
        (np.ones((FRAMES, 4, 4)), "must be a rotation", "3"),
        (np.tile(np.diag([-1.0, 1, 1, 1]), (FRAMES, 1, 1)), "must be a rotation", "mirror"),
        (nan_at(np.tile(np.eye(4), (FRAMES, 1, 1)), 1, 2, 3), "finite everywhere", r"\(1, 2, 3\)"),
    ],
    "cam_intrinsics": [(np.eye(4), r"shape \(3, 3\)", r"\(4, 4\)"), (PORTRAIT.T, "fx 0 cx", "540")],
    "sequence": [("downtown_walking_01", "sequence of its name", "downtown_walking_01")],
}


@pytest.mark.parametrize(
    ("name", "value", "rule", "found"), [(name, *case) for name, cases in MALFORMED.items() for case in cases]
)
def test_malformed_pickles_name_file_rule_and_what_was_found(tmp_path, name, value, rule, found):
    path, _ = write(tmp_path)
    spoil(path, **{name: value})
    reader = ThreeDPW(tmp_path)
    with pytest.raises(DatasetError, match=rule) as caught:
        reader.annotate(reader.sequences()[0])
    assert str(path) in caught.value.rule
    assert re.search(found, caught.value.found)


def test_pickles_that_are_damaged_or_hostile(tmp_path):
    path, _ = write(tmp_path)
    reader = ThreeDPW(tmp_path)
    [sequence] = reader.sequences()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=rf"{NAME}\.pkl must be a readable pickle"):
        reader.annotate(sequence)
    path.write_bytes(threedpw.python2_pickle([1, 2]))
    with pytest.raises(DatasetError, match="must be a dict"):
        reader.annotate(sequence)

    class Evil:
        def __reduce__(self):
            return os.system, ("touch ran",)

    path.write_bytes(pickle.dumps({"sequence": Evil()}, protocol=2))
    with pytest.raises(DatasetError, match=rf"the global {os.system.__module__}.*{NAME}\.pkl must hold numpy arrays"):
        reader.annotate(sequence)


def test_images_that_are_absent_cost_no_annotation(tmp_path):
    write(tmp_path, intrinsics=LANDSCAPE)
    shutil.rmtree(tmp_path / "imageFiles" / NAME)
    reader = ThreeDPW(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    assert ds.sizes["frame"] == FRAMES
    assert ds.attrs["media_bytes"] == 0
    camera = annotation.camera_of(ds)
    assert (camera.width, camera.height) == (1920, 1080)
    assert "no such folder" in json.loads(ds.attrs["provenance"])["notes"][0]


def swap_legs(joints):
    order = [*range(24)]
    for name in ("hip", "knee", "ankle"):
        left, right = SMPL_24.index(f"left_{name}"), SMPL_24.index(f"right_{name}")
        order[left], order[right] = right, left
    return joints[:, :, order]


WRONG = {
    "legs exchanged": ({"joints": swap_legs}, "same side"),
    "millimetres": ({"joints": lambda j: j * 1000}, "0.2 to 0.7 m"),
    "mirrored": ({"joints": lambda j: j * [1, -1, 1], "poses2d": np.zeros_like}, "at the front of the bodies"),
    "camera-to-world poses": ({"cam_poses": np.linalg.inv}, "project onto"),
    "another sequence's detections": ({"poses2d": lambda p: np.roll(p, 300, axis=-2) + 250.0}, "project onto"),
}


@pytest.mark.parametrize("name", WRONG)
def test_geometry_that_cannot_be_is_refused_with_its_figure(tmp_path, name):
    changes, rule = WRONG[name]
    path, _ = write(tmp_path, **changes)
    reader = ThreeDPW(tmp_path)
    with pytest.raises(DatasetError, match=rule) as caught:
        reader.annotate(reader.sequences()[0])
    assert str(path) in caught.value.rule
    assert re.search(r"\d", caught.value.found)
