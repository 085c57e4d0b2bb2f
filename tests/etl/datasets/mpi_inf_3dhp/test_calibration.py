import pickle
import re

import numpy as np
import pytest

from etl.datasets.mpi_inf_3dhp.calibration import read_calibration, read_test_calibration
from etl.demo.mpi_inf_3dhp import write_calibration, write_test_calibration
from etl.errors import DatasetError
from schemas.camera import Camera
from tests.etl.datasets.people import looking_at, moved, pinhole

WORLD_TO_CAMERA = looking_at((3.4, 1.4, 0.3), (0, 1.0, 0), up="y")
CAMERA = Camera(
    "3",
    2048,
    2048,
    (1497.693, 1497.103),
    (1024.704, 1051.394),
    rotation=tuple(map(tuple, WORLD_TO_CAMERA[:3, :3].tolist())),
    translation=tuple(WORLD_TO_CAMERA[:3, 3].tolist()),
)
POINTS = np.array([[0.1, 1.0, 0.2], [-0.3, 1.7, 0.1], [0.2, 0.1, -0.4]])


def projected():
    """Pixels of POINTS by matrices alone."""
    intrinsics = np.array([[1497.693, 0, 1024.704], [0, 1497.103, 1051.394], [0, 0, 1]])
    return pinhole(intrinsics, moved(WORLD_TO_CAMERA, POINTS))


def test_training_calibration_in_millimetres_projects_the_world(tmp_path):
    path = tmp_path / "camera.calibration"
    write_calibration(path, [CAMERA])
    text = path.read_text()
    assert text.startswith("Skeletool Camera Calibration File V1.0\nname          3\n")
    lines = text.splitlines()
    # What MMPose and SPIN cut out of the lines, off-by-one ends included.
    sliced = [float(word) for word in lines[5][11:-2].split()]
    assert (sliced[0], sliced[5], sliced[2], sliced[6]) == (1497.693, 1497.103, 1024.704, 1051.394)
    assert abs(float(lines[6].split()[12])) > 100  # millimetres
    camera = read_calibration(path)["3"]
    np.testing.assert_allclose(camera.project(camera.world_to_camera(POINTS)), projected(), atol=1e-9)
    assert (camera.width, camera.height, camera.distortion) == (2048, 2048, "none")


def test_test_calibration_projects_the_world(tmp_path):
    path = tmp_path / "ts1-4cameras.calib"
    write_test_calibration(path, CAMERA)
    camera, bent = read_test_calibration(path, "0", (2048, 2048))
    np.testing.assert_allclose(camera.project(camera.world_to_camera(POINTS)), projected(), atol=1e-9)
    assert not bent
    half, _ = read_test_calibration(path, "0", (1024, 1024))
    assert half.focal == (camera.focal[0] / 2, camera.focal[1] / 2)


@pytest.mark.parametrize(
    ("name", "size", "focal", "center", "bent"),
    [
        ("ts1-4cameras", (2048, 2048), (1500.17, 1500.83), (1017.39, 1043.03), False),
        ("ts5-6cameras", (1920, 1080), (1683.98, 1672.59), (939.86, 560.14), True),
    ],
)
def test_the_official_test_calibrations(samples, name, size, focal, center, bent):
    camera, lists_distortion = read_test_calibration(samples / "3dhp" / f"{name}.calib", "0", size)
    np.testing.assert_allclose(camera.focal, focal, atol=0.005)
    np.testing.assert_allclose(camera.center, center, atol=0.005)
    assert lists_distortion is bent
    assert camera.distortion == "none"


def test_the_test_set_shares_camera_8_with_the_training_set(samples):
    expected = pickle.loads((samples / "3dhp" / "cameras_train.pkl").read_bytes())["S1_Seq1_Cam8"]
    camera, _ = read_test_calibration(samples / "3dhp" / "ts1-4cameras.calib", "8", (2048, 2048))
    np.testing.assert_allclose(camera.rotation, expected["R"], atol=1e-6)
    np.testing.assert_allclose(camera.translation, expected["T"][:, 0], atol=1e-5)
    np.testing.assert_allclose(camera.focal, expected["f"][:, 0], atol=0.01)


TRAIN_FAULTS = {
    "no camera": (lambda text: text.splitlines()[0], "must have lines", "no line"),
    "empty": (lambda text: "", "at least 1 bytes", "0 bytes"),
    "a line is missing": (lambda text: re.sub(r"  extrinsic.*\n", "", text), "'extrinsic'", "intrinsic"),
    "cut off": (lambda text: text[: text.index("extrinsic") + 60], r"shape \(16,\)", r"\(\d+,\)"),
    "words": (lambda text: text.replace("2048 2048", "2048 wide"), "2 numbers", "2048 wide"),
    "not finite": (lambda text: text.replace("1497.693", "nan", 1), "finite", "1 values"),
    "skew": (lambda text: re.sub(r"(intrinsic\s+\S+ )0", r"\g<1>0.5", text), "fx 0 cx", "0.5"),
    "no rotation": (lambda text: re.sub(r"(extrinsic\s+)\S+", r"\g<1>2", text), "must be a rotation", r"\d"),
    "binary": (lambda text: "\0" * 50, "must have lines", "no line"),
}


@pytest.mark.parametrize("name", TRAIN_FAULTS)
def test_malformed_training_calibrations(tmp_path, name):
    spoil, rule, found = TRAIN_FAULTS[name]
    path = tmp_path / "camera.calibration"
    write_calibration(path, [CAMERA])
    path.write_text(spoil(path.read_text()))
    with pytest.raises(DatasetError, match=rule) as caught:
        read_calibration(path)
    assert str(path) in caught.value.rule
    assert re.search(found, caught.value.found)


def test_mirrored_extrinsics_are_no_rotation(tmp_path):
    mirrored = tuple(map(tuple, (np.diag([-1.0, 1, 1]) @ WORLD_TO_CAMERA[:3, :3]).tolist()))
    path = tmp_path / "camera.calibration"
    write_calibration(
        path, [Camera("0", 2048, 2048, (1500, 1500), (1024, 1024), rotation=mirrored, translation=(0, 0, 0))]
    )
    with pytest.raises(DatasetError, match="determinant must be 1"):
        read_calibration(path)


TEST_FAULTS = {
    "a line is missing": (lambda text: text.replace("focalLength", "focus"), "'focalLength'", "only"),
    "fewer numbers": (lambda text: re.sub(r"(sensorSize\s+\S+).*", r"\1", text), r"shape \(2,\)", r"\(1,\)"),
    "words": (lambda text: re.sub(r"pixelAspect\s+\S+", "pixelAspect square", text), "1 numbers", "square"),
    "no sensor": (lambda text: re.sub(r"sensorSize.*", "sensorSize 0 10", text), "positive", "0"),
    "not perpendicular": (lambda text: re.sub(r"up\s.*", "up 1 1 1", text), "must be a rotation", r"\d"),
    "not utf-8": (lambda text: text.encode("utf-16"), "readable text file", "codec"),
}


@pytest.mark.parametrize("name", TEST_FAULTS)
def test_malformed_test_calibrations(tmp_path, name):
    spoil, rule, found = TEST_FAULTS[name]
    path = tmp_path / "ts1-4cameras.calib"
    write_test_calibration(path, CAMERA)
    spoiled = spoil(path.read_text())
    path.write_bytes(spoiled if isinstance(spoiled, bytes) else spoiled.encode())
    with pytest.raises(DatasetError, match=rule) as caught:
        read_test_calibration(path, "0", (2048, 2048))
    assert str(path) in caught.value.rule
    assert re.search(found, caught.value.found)
