import json
import re

import numpy as np
import pytest

from etl.datasets.mpi_inf_3dhp.reader import MpiInf3DHP
from etl.errors import DatasetError
from schemas import annotation
from tests.etl.datasets.mpi_inf_3dhp_raw import FRAMES_HERE, TEST_K, write_test
from tests.etl.datasets.people import pinhole


@pytest.mark.parametrize(("subject", "size"), [("TS1", (2048, 2048)), ("TS6", (1920, 1080))])
@pytest.mark.parametrize("calibration", [True, False])
def test_test_joints_validity_activity_and_camera(tmp_path, subject, size, calibration):
    points = write_test(tmp_path, subject, calibration=calibration)
    reader = MpiInf3DHP(tmp_path)
    [sequence] = reader.sequences()
    ds = reader.annotate(sequence)
    np.testing.assert_allclose(ds["keypoints_3d"], points, atol=1e-9)
    name = "ts1-4cameras" if subject == "TS1" else "ts5-6cameras"
    np.testing.assert_allclose(ds["keypoints_2d"], pinhole(TEST_K[name], points), atol=1e-6)
    assert ds["valid_annotation"].values.tolist() == [True] * 6 + [False, True]
    assert ds["activity"].values.tolist() == [1, 1, 2, 3, 4, 5, 6, 7]
    assert ds["activity"].attrs["flag_meanings"].split()[5] == "on_the_floor"
    camera = annotation.camera_of(ds)
    assert (camera.width, camera.height) == size
    np.testing.assert_allclose(camera.focal, TEST_K[name][[0, 1], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(camera.center, TEST_K[name][:2, 2], atol=1e-6)
    assert (camera.rotation is not None) is calibration
    assert ds.attrs["split"] == "test"
    assert annotation.imgname_of(ds)[7] == f"{subject}_000008.jpg"
    assert (sequence.key.action, sequence.key.camera) == ("Test", "0")
    np.testing.assert_array_equal(annotation.validate(ds)["visibility"], 1)


@pytest.mark.parametrize("pattern", ["img_{:06d}.jpg", "TS1_{:06d}.jpg"])
def test_images_of_the_test_set_and_their_count(tmp_path, pattern):
    write_test(tmp_path, images=5, pattern=pattern)
    reader = MpiInf3DHP(tmp_path)
    [sequence] = reader.sequences()
    assert sequence.media.image_path(tmp_path, 0).name == pattern.format(1)
    assert reader.annotate(sequence).sizes["frame"] == 5


def test_images_that_do_not_begin_at_the_first_are_found(tmp_path):
    write_test(tmp_path, pattern="TS1_{:06d}.jpg")
    for number in (1, 2, 3):
        (tmp_path / f"mpi_inf_3dhp_test_set/TS1/imageSequence/TS1_{number:06d}.jpg").unlink()
    reader = MpiInf3DHP(tmp_path)
    [sequence] = reader.sequences()
    assert sequence.media.pattern == "TS1_{number:06d}.jpg"
    assert sequence.media.image_path(tmp_path, 3).is_file()
    ds = reader.annotate(sequence)
    assert ds.sizes["frame"] == FRAMES_HERE
    assert annotation.camera_of(ds).width == 2048


@pytest.mark.parametrize("home", ["mpi_inf_3dhp_test_set/mpi_inf_3dhp_test_set", "test"])
def test_other_places_of_the_test_set(tmp_path, home):
    write_test(tmp_path / "elsewhere")
    (tmp_path / home).parent.mkdir(exist_ok=True)
    (tmp_path / "elsewhere" / "mpi_inf_3dhp_test_set").rename(tmp_path / home)
    reader = MpiInf3DHP(tmp_path)
    [sequence] = reader.sequences()
    assert sequence.files["calibration"].startswith(home)
    assert reader.annotate(sequence).sizes["frame"] == FRAMES_HERE


def test_invalid_frames_may_hold_anything(tmp_path):
    def spoil(pixels, points, **values):
        pixels[6], points[6] = np.nan, np.nan
        return values | {"pixels": pixels, "points": points}

    write_test(tmp_path, change=spoil)
    reader = MpiInf3DHP(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    assert not ds["valid_annotation"].values[6]
    assert (ds["visibility"].values[6] == 0).all()
    assert (ds["visibility"].values[7] == 1).all()


def test_joints_made_with_another_principal_point_get_a_fitted_camera(tmp_path):
    def shift(pixels, **values):
        return values | {"pixels": pixels - [4.3, 4.5]}  # as TS2 of the release

    write_test(tmp_path, "TS2", change=shift)
    reader = MpiInf3DHP(tmp_path)
    ds = reader.annotate(reader.sequences()[0])
    camera = annotation.camera_of(ds)
    np.testing.assert_allclose(camera.center, (1017.387336 - 4.3, 1043.031982 - 4.5), atol=1e-6)
    np.testing.assert_allclose(camera.focal, (1500.172288, 1500.832364), atol=1e-6)
    assert "is off by" in json.loads(ds.attrs["provenance"])["notes"][0]


def test_joints_that_need_another_camera_are_refused(tmp_path):
    write_test(tmp_path, change=lambda pixels, **values: values | {"pixels": pixels / 2})
    reader = MpiInf3DHP(tmp_path)
    with pytest.raises(DatasetError, match="within 1% of the image's width") as caught:
        reader.annotate(reader.sequences()[0])
    assert re.search(r"off by .*p95 \d+", caught.value.found)


def test_miniatures_have_matlabs_header(tmp_path):
    write_test(tmp_path, images=1)
    data = (tmp_path / "mpi_inf_3dhp_test_set" / "TS1" / "annot_data.mat").read_bytes()
    assert data.startswith(b"MATLAB 7.3 MAT-file")
    assert data[124:128] == b"\x00\x02IM"
    assert data[512:520] == b"\x89HDF\r\n\x1a\n"
