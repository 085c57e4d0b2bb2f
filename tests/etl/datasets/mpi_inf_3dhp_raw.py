"""Sequences of MPI-INF-3DHP as released, with synthetic joints."""

import functools

import numpy as np
import simplejpeg

from etl.demo import mpi_inf_3dhp
from etl.demo.raw_joints import mpi_inf_3dhp_28
from etl.demo.raw_media import write_video
from schemas.camera import Camera
from schemas.skeletons import H36M_17
from schemas.skeletons_raw import MPI_INF_3DHP_17
from tests.etl.datasets.people import looking_at, moved, people, pinhole

FRAMES_HERE = 8
SIZE = 128  # of the training videos, with the intrinsics shrunk alike
TRAIN_K = np.array([[1497.693, 0, 1024.704], [0, 1497.103, 1051.394], [0, 0, 16]]) / 16
TEST_K = {
    "ts1-4cameras": np.array([[1500.172288, 0, 1017.387336], [0, 1500.832364, 1043.031982], [0, 0, 1]]),
    "ts5-6cameras": np.array([[1683.98346, 0, 939.85754], [0, 1672.593708, 560.140743], [0, 0, 1]]),
}


def y_up(joints):
    """World coordinates with y up, as the release has them, of those with z up."""
    return np.stack([joints[..., 0], joints[..., 2], -joints[..., 1]], axis=-1)


@functools.cache
def world(frames=FRAMES_HERE):
    return y_up(people(frames, seed=1))


def extrinsics(number):
    """World-to-camera of training camera `number`: all round, at two heights."""
    angle = 2 * np.pi * number / 14 + 0.3
    return looking_at((5 * np.sin(angle), 1.0 + 0.1 * number, 5 * np.cos(angle)), (0.05, 0.9, 0), up="y")


def camera_of(name, matrix, intrinsics, size):
    rotation = tuple(map(tuple, matrix[:3, :3].tolist()))
    focal = (intrinsics[0, 0], intrinsics[1, 1])
    center = (intrinsics[0, 2], intrinsics[1, 2])
    return Camera(name, *size, focal, center, rotation=rotation, translation=tuple(matrix[:3, 3].tolist()))


def write_train(
    root, subject="S1", action="Seq1", videos=None, change=lambda pixels, points: (pixels, points), home=""
):
    """A training sequence as released; returns joints (F, 17, 3) in the world."""
    joints = world()
    points = np.stack([moved(extrinsics(n), mpi_inf_3dhp_28(joints)) for n in range(14)])
    pixels = pinhole(TRAIN_K, points)
    folder = root / home / subject / action
    mpi_inf_3dhp.write_annotations(folder / "annot.mat", *change(pixels, points))
    cameras = [camera_of(str(n), extrinsics(n), TRAIN_K, (SIZE, SIZE)) for n in range(14)]
    mpi_inf_3dhp.write_calibration(folder / "camera.calibration", cameras)
    for camera, count in (videos or {}).items():
        black = np.zeros((SIZE, SIZE, 3), np.uint8)
        write_video(folder / "imageSequence" / f"video_{camera}.avi", [black] * count, 25, "mpeg4")
    return joints


def write_test(
    root, subject="TS1", images=FRAMES_HERE, change=lambda **values: values, calibration=True, pattern="img_{:06d}.jpg"
):
    """A test sequence as released; returns its joints in camera coordinates, H36M_17."""
    outdoor = subject in ("TS5", "TS6")
    name, size = ("ts5-6cameras", (1920, 1080)) if outdoor else ("ts1-4cameras", (2048, 2048))
    matrix = looking_at((3.4, 1.4, 0.3), (0, 1.0, 0), up="y")
    points = moved(matrix, world())
    pixels = pinhole(TEST_K[name], points)
    order = [H36M_17.index(_H36M_NAME.get(joint, joint)) for joint in MPI_INF_3DHP_17.joints]
    home = root / "mpi_inf_3dhp_test_set"
    values = {
        "pixels": pixels[:, order],
        "points": points[:, order],
        "valid": np.array([True] * 6 + [False, True]),
        "activity": np.array([1, 1, 2, 3, 4, 5, 6, 7]),
    }
    mpi_inf_3dhp.write_test_annotations(home / subject / "annot_data.mat", **change(**values))
    if calibration:
        place = home / "test_util" / "camera_calibration" / f"{name}.calib"
        sensor = (10.0, 5.625) if outdoor else (10.0, 10.0)
        mpi_inf_3dhp.write_test_calibration(place, camera_of("x", matrix, TEST_K[name], size), sensor)
    (home / subject / "imageSequence").mkdir(parents=True, exist_ok=True)
    jpeg = simplejpeg.encode_jpeg(np.zeros((size[1], size[0], 3), np.uint8))
    for number in range(1, images + 1):
        (home / subject / "imageSequence" / pattern.format(number)).write_bytes(jpeg)
    return points


_H36M_NAME = {"head_top": "head", "neck": "thorax", "head": "neck_base"} | {
    f"{side}_ankle": f"{side}_foot" for side in ("left", "right")
}


def by_key(reader):
    return {(s.key.subject, s.key.action, s.key.camera): s for s in reader.sequences()}
