import json

import numpy as np
import pytest
import scipy.io
import simplejpeg

from etl.datasets.mpi_inf_3dhp import annotations as mpi_inf_3dhp_annotations
from etl.datasets.mpi_inf_3dhp.reader import CAMERA_SETS, FRAMES, MpiInf3DHP
from etl.datasets.sampling import picture_size
from etl.demo.raw_joints import facing
from etl.demo.raw_media import write_video
from etl.errors import DatasetError
from schemas import annotation
from schemas.skeletons import H36M_17
from schemas.skeletons_raw import (
    H36M_TO_MPI_INF_3DHP_17,
)
from tests.etl.datasets.mpi_inf_3dhp_raw import SIZE, TRAIN_K, by_key, extrinsics, write_test, write_train
from tests.etl.datasets.people import moved, pinhole


@pytest.mark.parametrize("camera", ["0", "8"])
@pytest.mark.parametrize("home", ["", "train"])
def test_training_joints_are_those_of_the_world_seen_by_the_camera(tmp_path, camera, home):
    joints = write_train(tmp_path, videos={0: 8, 8: 8}, home=home)
    reader = MpiInf3DHP(tmp_path)
    ds = reader.annotate(by_key(reader)["S1", "Seq1", camera])
    expected = moved(extrinsics(int(camera)), joints)
    np.testing.assert_allclose(ds["keypoints_3d"], expected, atol=1e-9)
    np.testing.assert_allclose(ds["keypoints_2d"], pinhole(TRAIN_K, expected), atol=1e-6)
    assert ds["valid_annotation"].values.all()
    assert ds.attrs["split"] == "train"
    assert annotation.imgname_of(ds)[0] == f"S1_Seq1_Cam{camera}_000001.jpg"
    assert (ds.attrs["rate_hz"], ds.attrs["media_rate_hz"]) == (25, 25)
    provenance = json.loads(ds.attrs["provenance"])
    assert provenance["mmpose_order"] == list(H36M_TO_MPI_INF_3DHP_17)
    assert provenance["notes"] == []
    assert provenance["checks"]["projection_px"]["max"] < 1e-6


def test_sides_and_front_of_the_training_set(tmp_path):
    write_train(tmp_path)
    reader = MpiInf3DHP(tmp_path, camera_set="all")
    at = H36M_17.index
    seen = {-1: 0, 1: 0}
    for sequence in reader.sequences():
        joints = reader.annotate(sequence)["keypoints_3d"].values
        hips = joints[:, at("right_hip")] - joints[:, at("left_hip")]
        shoulders = joints[:, at("right_shoulder")] - joints[:, at("left_shoulder")]
        assert ((hips * shoulders).sum(-1) > 0).all()
        # Seen from the front the person's right is on the left of the image, from the back on its right.
        towards = np.sign(facing(joints)[:, 2])
        frontal = np.abs(facing(joints)[:, 2]) > 0.3
        assert (np.sign(hips[frontal, 0]) == towards[frontal]).all()
        for sign in seen:
            seen[sign] += int((towards == sign).sum())
    assert min(seen.values()) > 10


def test_joints_outside_the_image_are_not_visible(tmp_path):
    def shift(pixels, points):
        points = points.copy()
        points[0, ..., 0] += SIZE / 2 / TRAIN_K[0, 0] * points[0, ..., 2]  # to the image's edge
        return pinhole(TRAIN_K, points), points

    write_train(tmp_path, change=shift)
    reader = MpiInf3DHP(tmp_path)
    ds = reader.annotate(by_key(reader)["S1", "Seq1", "0"])
    x, y = ds["keypoints_2d"].values[..., 0], ds["keypoints_2d"].values[..., 1]
    expected = [[0 <= u < SIZE and 0 <= v < SIZE for u, v in zip(*row, strict=True)] for row in zip(x, y, strict=True)]
    assert 0 < np.mean(expected) < 1
    assert ds["visibility"].values.astype(bool).tolist() == expected


def test_camera_sets_and_filters(tmp_path):
    for subject in ("S1", "S8"):
        for action in ("Seq1", "Seq2"):
            (tmp_path / subject / action).mkdir(parents=True)
    for name, numbers in CAMERA_SETS.items():
        found = MpiInf3DHP(tmp_path, camera_set=name).sequences()
        assert {int(s.key.camera) for s in found} == set(numbers)
        assert len(found) == 4 * len(numbers)
        assert [s.key for s in found] == sorted(s.key for s in found)
    reader = MpiInf3DHP(tmp_path, subjects=["S8"], actions=["Seq2"], cameras=["4", "8"])
    assert [s.release_name for s in reader.sequences()] == ["S8/Seq2/video_4", "S8/Seq2/video_8"]
    with pytest.raises(DatasetError, match="Did you mean 'vnect'"):
        MpiInf3DHP(tmp_path, camera_set="vnetc").sequences()
    with pytest.raises(DatasetError, match="subject must be one of"):
        MpiInf3DHP(tmp_path, subjects=["S9"]).sequences()
    with pytest.raises(DatasetError, match="camera of the set 'chest' must be one of 0, 2, 4, 7, 8"):
        MpiInf3DHP(tmp_path, camera_set="chest", cameras=["3"]).sequences()
    with pytest.raises(DatasetError, match="no sequence of action Test") as caught:
        MpiInf3DHP(tmp_path, actions=["Test"], camera_set="chest").sequences()
    assert (
        caught.value.found == "no sequence of action Test among subject S1, S8; action Seq1, Seq2; camera 0, 2, 4, 7, 8"
    )
    with pytest.raises(DatasetError, match="20 Hz"):
        MpiInf3DHP(tmp_path, hz=20).sequences()


def test_an_empty_folder_says_what_is_expected(tmp_path):
    (tmp_path / "S1.zip").touch()
    with pytest.raises(DatasetError, match=r"S1/Seq1/annot\.mat") as caught:
        MpiInf3DHP(tmp_path).sequences()
    assert "S1.zip" in caught.value.found


@pytest.mark.parametrize(
    ("action", "hz", "rows", "rate"),
    [("Seq1", 25, 8, 25), ("Seq1", None, 8, 25), ("Seq2", 25, 4, 25), ("Seq2", None, 8, 50)],
)
def test_rates_of_25_and_50(tmp_path, action, hz, rows, rate):
    write_train(tmp_path, action=action)  # S1's Seq2 has 50 Hz
    reader = MpiInf3DHP(tmp_path, hz=hz)
    ds = reader.annotate(by_key(reader)["S1", action, "0"])
    assert ds["frame_number"].values.tolist() == [*range(0, 8, 8 // rows)]
    assert ds.attrs["rate_hz"] == rate


def test_a_rate_that_a_sequence_lacks_is_its_own_fault(tmp_path):
    for action in ("Seq1", "Seq2"):
        write_train(tmp_path, action=action)
    write_test(tmp_path)
    reader = MpiInf3DHP(tmp_path, hz=50, cameras=["0"])
    found = by_key(reader)
    assert reader.annotate(found["S1", "Seq2", "0"]).sizes["frame"] == 8
    assert reader.annotate(found["TS1", "Test", "0"]).sizes["frame"] == 8
    with pytest.raises(DatasetError, match="media, 25 Hz") as caught:
        reader.annotate(found["S1", "Seq1", "0"])
    assert caught.value.found == "50 Hz asked for"


def test_rows_beyond_the_stated_frames_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(FRAMES, ("S1", "Seq1"), 5)
    write_train(tmp_path, videos={0: 8})
    reader = MpiInf3DHP(tmp_path)
    ds = reader.annotate(by_key(reader)["S1", "Seq1", "0"])
    assert ds["frame_number"].values.tolist() == [0, 1, 2, 3, 4]
    assert "8 rows, of which the release states 5" in json.loads(ds.attrs["provenance"])["notes"][0]


def test_stated_frames_are_those_of_mmpose():
    first = [6416, 6502, 12488, 6171, 12820, 6188, 6239, 6468]
    second = [12430, 6081, 12283, 6675, 12312, 6145, 6320, 6054]
    for subject, counts in enumerate(zip(first, second, strict=True), 1):
        assert [FRAMES[f"S{subject}", f"Seq{n}"] for n in (1, 2)] == list(counts)
    assert len(FRAMES) == 16


def test_a_video_that_was_cut_short_costs_its_own_rows_only(tmp_path):
    write_train(tmp_path, "S6", "Seq2", videos={1: 8, 2: 5})
    reader = MpiInf3DHP(tmp_path)
    found = by_key(reader)
    assert reader.annotate(found["S6", "Seq2", "1"]).sizes["frame"] == 8
    short = reader.annotate(found["S6", "Seq2", "2"])
    assert short.sizes["frame"] == 5
    assert "8 poses, 5 frames" in json.loads(short.attrs["provenance"])["notes"][0]
    absent = reader.annotate(found["S6", "Seq2", "4"])
    assert absent.sizes["frame"] == 8
    assert "video_4.avi" in json.loads(absent.attrs["provenance"])["notes"][0]


@pytest.mark.parametrize(
    "pattern",
    [
        "S1/Seq1/imageSequence/video_0/frame{:06d}.jpg",
        "S1/Seq1/imageSequence/video_0/frame_{:06d}.jpg",
        "S1/Seq1/imageSequence/video_0/img_{:06d}.jpg",
        "images/S1_Seq1_Cam0_{:06d}.jpg",
    ],
)
def test_extracted_images_of_the_training_set(tmp_path, pattern):
    write_train(tmp_path)
    for number in range(1, 7):
        path = tmp_path / pattern.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(simplejpeg.encode_jpeg(np.zeros((SIZE, SIZE, 3), np.uint8)))
    reader = MpiInf3DHP(tmp_path)
    sequence = by_key(reader)["S1", "Seq1", "0"]
    assert sequence.media.image_path(tmp_path, 0) == tmp_path / pattern.format(1)
    assert reader.annotate(sequence).sizes["frame"] == 6


def test_images_of_a_flat_folder_are_found_whatever_the_first(tmp_path):
    write_train(tmp_path)
    (tmp_path / "images").mkdir()
    jpeg = simplejpeg.encode_jpeg(np.zeros((SIZE, SIZE, 3), np.uint8))
    for name in ("S1_Seq1_Cam4_000001.jpg", "S1_Seq1_Cam0_000005.jpg", "S1_Seq1_Cam0_000007.jpg", "readme.txt"):
        (tmp_path / "images" / name).write_bytes(jpeg)
    reader = MpiInf3DHP(tmp_path)
    found = by_key(reader)
    assert found["S1", "Seq1", "0"].media.path == "images"
    assert found["S1", "Seq1", "4"].media.path == "images"
    assert found["S1", "Seq1", "1"].media.kind == "video"
    ds = reader.annotate(found["S1", "Seq1", "0"])
    assert ds.sizes["frame"] == 7  # those without an image are listed when they are decoded
    assert picture_size(tmp_path, found["S1", "Seq1", "0"].media) == (SIZE, SIZE)


def test_resized_videos_are_refused(tmp_path):
    write_train(tmp_path)
    write_video(tmp_path / "S1/Seq1/imageSequence/video_0.avi", [np.zeros((64, 64, 3), np.uint8)] * 8, 25, "mpeg4")
    reader = MpiInf3DHP(tmp_path)
    with pytest.raises(DatasetError, match="128x128") as caught:
        reader.annotate(by_key(reader)["S1", "Seq1", "0"])
    assert caught.value.found == "frames of 64x64"


def test_the_file_is_read_once_for_all_cameras(tmp_path, monkeypatch):
    write_train(tmp_path)
    reads = []
    original = mpi_inf_3dhp_annotations.read_mat
    monkeypatch.setattr(mpi_inf_3dhp_annotations, "read_mat", lambda *a: reads.append(a) or original(*a))
    reader = MpiInf3DHP(tmp_path)
    for sequence in reader.sequences():
        reader.annotate(sequence)
    assert len(reads) == 1


def test_whole_numbers_are_read_as_matlab_stores_them(tmp_path):
    def whole(pixels, points):
        points = np.round(1000 * points) / 1000
        return pinhole(TRAIN_K, points), points

    joints = write_train(tmp_path, change=whole)
    path = tmp_path / "S1" / "Seq1" / "annot.mat"
    values = {name: v for name, v in scipy.io.loadmat(path).items() if not name.startswith("__")}
    for cell in values["annot3"]:
        cell[0] = np.round(cell[0]).astype(np.int16)
    scipy.io.savemat(path, values)
    reader = MpiInf3DHP(tmp_path)
    points = reader.annotate(by_key(reader)["S1", "Seq1", "0"])["keypoints_3d"].values
    np.testing.assert_allclose(points, moved(extrinsics(0), joints), atol=6e-4)
