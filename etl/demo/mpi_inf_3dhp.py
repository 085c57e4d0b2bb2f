"""Renders a miniature MPI-INF-3DHP in the release's own raw layout, with the truth beside it.

::

    DIR/S1/Seq1/annot.mat                                       MATLAB v5, 14 cameras
    DIR/S1/Seq1/camera.calibration                              world-to-camera, mm, y up
    DIR/S1/Seq1/imageSequence/video_0.avi                       MPEG-4, 25 Hz
    DIR/S2/Seq1/imageSequence/video_0/frame_000001.jpg          S2's videos are extracted
    DIR/mpi_inf_3dhp_test_set/TS1/annot_data.mat                MATLAB v7.3
    DIR/mpi_inf_3dhp_test_set/TS1/imageSequence/img_000001.jpg  TS5: TS5_000001.jpg
    DIR/mpi_inf_3dhp_test_set/test_util/camera_calibration/ts1-4cameras.calib
    DIR/truth/S1_Seq1_Cam0.npz                                  etl.demo.recording
    DIR/xycd-demo.json                                          what this folder is

Of the 14 cameras some have media. As in the release, a video is shorter than its annotation, some frames of the test
set are invalid, and the calibration of TS5 lists a distortion of which images and annotations are free. DEMO, which is
what `xycd demo` renders, also has rows beyond the frames that the release states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from etl.datasets.mpi_inf_3dhp.reader import FAST, FRAMES, OUTDOOR, TEST_ACTION, TEST_SUBJECTS
from etl.demo import miniature
from etl.demo.cameras import origin_of, placed, posed, scaled
from etl.demo.miniature import act, joints_of
from etl.demo.raw_joints import mpi_inf_3dhp_28
from etl.demo.raw_media import write_images, write_video
from etl.demo.recording import film
from etl.demo.scene import Actor, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons_raw import H36M_TO_MPI_INF_3DHP_17

Floats = NDArray[np.floating[Any]]

ACTION: Final = "Seq1"
CAMERAS: Final = tuple(str(number) for number in range(14))
SUBJECTS: Final = tuple(subject for subject, action in FRAMES if action == ACTION)
EXTRACTED: Final = frozenset({"S2"})  # whose videos are images
MOTIONS: Final = {"S1": "Directions", "S2": "Walking", "TS1": "Walking", "TS5": "Posing"}
# Those of camera 0, and of the official .calib files.
TRAIN_LENS: Final = Camera("0", 2048, 2048, (1497.693, 1497.103), (1024.704, 1051.394))
TEST_LENS: Final = Camera("0", 2048, 2048, (1500.172288, 1500.832364), (1017.387336, 1043.031982))
OUTDOOR_LENS: Final = Camera(
    "0", 1920, 1080, (1683.983460, 1672.593708), (939.857540, 560.140743),
    radial=(-0.276859, 0.131125, -0.049318), tangential=(-0.000360, -0.001149),
)  # fmt: skip
# A world whose y is up, as the release's, to the room's, whose z is.
FROM_Y_UP: Final = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


@dataclass(frozen=True)
class Plan(miniature.Plan):
    """Plan of the rendered dataset; see `miniature.Plan`.

    Parameters
    ----------
    subjects : tuple of str
        Of the training set; Seq1 of each.
    cameras : tuple of str
        Those of the training set that have media.
    tests : tuple of str
        Subjects of the test set.
    beyond : int
        Rows of the last subject's annotation beyond the frames that the release states, which are thousands; all
        that have no image repeat those that have. 0 gives rows for the images only.
    """

    dataset: ClassVar[str] = "3dhp"
    choices: ClassVar = {"subjects": SUBJECTS, "cameras": CAMERAS, "tests": TEST_SUBJECTS}

    frames: int = 10
    scale: float = 0.5
    subjects: tuple[str, ...] = ("S1", "S2")
    cameras: tuple[str, ...] = ("0", "4")
    tests: tuple[str, ...] = ("TS1", "TS5")
    beyond: int = 0

    def sequences(self) -> list[SequenceKey]:
        """The training set, then the test set."""
        train = [SequenceKey(self.dataset, s, ACTION, 0, camera) for camera in self.cameras for s in self.subjects]
        return train + [SequenceKey(self.dataset, subject, TEST_ACTION, 0, "0") for subject in self.tests]

    def video_frames(self, key: SequenceKey) -> int:
        """The last camera's video of the first subject is cut short, as S6/Seq2/video_2 in the release."""
        short = key.subject == self.subjects[0] and key.camera == self.cameras[-1] and self.frames > 1
        return self.frames - short

    def record(self, folder: Path, key: SequenceKey) -> None:
        """Write one sequence's media with its truth."""
        test = key.action == TEST_ACTION
        stem = key.subject if test else f"{key.subject}_{key.action}_Cam{key.camera}"
        scene = Scene(camera_of(key.subject, key.camera, self.scale))
        moments = ((scene, (actor_at(key.subject, number),)) for number in range(self.video_frames(key)))
        images = film(folder, stem, key, moments)
        if test:
            pattern = f"{stem}_{{number:06d}}.jpg" if key.subject in OUTDOOR else "img_{number:06d}.jpg"
            write_images(_test_set(folder) / key.subject / "imageSequence", pattern, images)
            return
        place = folder / key.subject / key.action / "imageSequence" / f"video_{key.camera}"
        if key.subject in EXTRACTED:
            write_images(place, "frame_{number:06d}.jpg", images)
        else:
            write_video(place.with_suffix(".avi"), images, rate_of(key.subject), "mpeg4")

    def finish(self, folder: Path) -> None:
        """Write annotations and calibrations."""
        for subject in self.subjects:
            cameras = [camera_of(subject, name, self.scale) for name in CAMERAS]
            world = mpi_inf_3dhp_28(joints_of(actor_at(subject, number) for number in range(self.frames)))
            if self.beyond and subject == self.subjects[-1]:
                world = np.resize(world, (FRAMES[subject, ACTION] + self.beyond, *world.shape[1:]))
            points = np.stack([camera.world_to_camera(world) for camera in cameras])
            pixels = np.stack([camera.project(seen) for camera, seen in zip(cameras, points, strict=True)])
            home = folder / subject / ACTION
            # Cameras that see a person from above or below have joints, too; none is behind a camera.
            write_annotations(home / "annot.mat", pixels, points)
            write_calibration(home / "camera.calibration", [_y_up(camera) for camera in cameras])
        for subject in self.tests:
            camera = camera_of(subject, "0", self.scale)
            joints = joints_of(actor_at(subject, number) for number in range(self.frames))
            points = camera.world_to_camera(joints)[:, list(H36M_TO_MPI_INF_3DHP_17)]
            pixels, valid = camera.project(points), valid_frames(self.frames)
            pixels[1:2], points[1:2] = np.nan, np.nan  # the first that isn't valid
            activity = np.ones(self.frames, np.int64)
            home = _test_set(folder)
            write_test_annotations(home / subject / "annot_data.mat", pixels, points, valid, activity)
            name = "ts5-6cameras.calib" if subject in OUTDOOR else "ts1-4cameras.calib"
            path = home / "test_util" / "camera_calibration" / name
            write_test_calibration(path, _y_up(camera))


DEMO: Final = Plan(beyond=3)


def actor_at(subject: str, number: int) -> Actor:
    """The person in frame `number`; the same for all cameras."""
    return act(subject, MOTIONS.get(subject, "Greeting"), number / rate_of(subject))


def rate_of(subject: str) -> int:
    """Frames a second of a subject's videos."""
    return 50 if (subject, ACTION) in FAST else 25


def camera_of(subject: str, name: str, scale: float) -> Camera:
    """A camera in the room: of the training set's fourteen, or the test set's only one."""
    if subject in OUTDOOR:
        return placed(scaled(OUTDOOR_LENS, scale), (-2.4, -4.4, 1.4), (0, 0, 0.95), -0.02)
    if subject in TEST_SUBJECTS:
        return placed(scaled(TEST_LENS, scale), (3.6, 1.2, 1.5), (0, 0, 0.9), 0.01)
    number = CAMERAS.index(name)
    angle, high = 2 * math.pi * number / len(CAMERAS), (1.5, 0.6, 2.6)[(number // 2) % 3]
    lens = replace(TRAIN_LENS, name=name)
    return placed(scaled(lens, scale), (3.6 * math.cos(angle), 3.6 * math.sin(angle), high), (0, 0, 0.9), 0.01)


def valid_frames(frames: int) -> NDArray[np.bool_]:
    """Return which frames of a test sequence are valid (F,)."""
    return np.arange(frames) % 4 != 1


def _test_set(folder: Path) -> Path:
    return folder / "mpi_inf_3dhp_test_set"


def _y_up(camera: Camera) -> Camera:
    """The same camera in a world whose y is up."""
    rotation = np.asarray(camera.rotation) @ FROM_Y_UP
    return posed(camera, rotation, -rotation @ (FROM_Y_UP.T @ origin_of(camera)))


def write_annotations(path: Path, pixels: Floats, points: Floats) -> None:
    """Write ``annot.mat``: MPI_INF_3DHP_28 joints before every camera.

    `pixels` (14, F, 28, 2) is in px, `points` (14, F, 28, 3) in that camera's coordinates, metres; the file holds
    millimetres.
    """
    cameras, frames = pixels.shape[:2]
    pixels, millimetres = pixels.reshape(cameras, frames, -1), 1000 * points.reshape(cameras, frames, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        path,
        {
            "annot2": _cells(pixels),
            "annot3": _cells(millimetres),
            "univ_annot3": _cells(1.05 * millimetres),
            "cameras": np.arange(cameras, dtype=np.uint8)[None],
            "frames": np.arange(frames, dtype=np.float64)[:, None],
        },
        do_compression=True,
    )


def _cells(arrays: Floats) -> NDArray[np.object_]:
    """A MATLAB cell (n, 1) of arrays (n, ...)."""
    cells = np.empty((len(arrays), 1), object)
    cells[:, 0] = list(arrays)
    return cells


def write_calibration(path: Path, cameras: Sequence[Camera]) -> None:
    """Write ``camera.calibration``: cameras with a pose (metres; the file holds millimetres), in order."""
    lines = ["Skeletool Camera Calibration File V1.0"]
    for camera in cameras:
        (fx, fy), (cx, cy) = camera.focal, camera.center
        intrinsic = np.eye(4)
        intrinsic[[0, 1, 0, 1], [0, 1, 2, 2]] = fx, fy, cx, cy
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = camera.rotation
        extrinsic[:3, 3] = 1000 * np.asarray(camera.translation)
        lines += [
            f"name          {camera.name}",
            "  sensor      10 10",
            f"  size        {camera.width} {camera.height}",
            "  animated    0",
            # Other converters cut these two lines at their ends, so the blank there belongs to the format.
            f"  intrinsic   {_numbers(intrinsic)} ",
            f"  extrinsic   {_numbers(extrinsic)} ",
            "  radial      0",
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbers(values: Floats) -> str:
    return " ".join(f"{value:.17g}" for value in np.ravel(values).tolist())


def write_test_annotations(
    path: Path, pixels: Floats, points: Floats, valid: NDArray[np.bool_], activity: NDArray[np.integer]
) -> None:
    """Write a test sequence's ``annot_data.mat``: MPI_INF_3DHP_17 joints.

    `pixels` (F, 17, 2) is in px, `points` (F, 17, 3) in camera coordinates, metres; the file holds millimetres. `valid`
    (F,) says which frames are; `activity` (F,) is 1 to 7.
    """
    values = {
        "annot2": pixels[:, None],
        "annot3": 1000 * points[:, None],
        "univ_annot3": 1050 * points[:, None],
        "valid_frame": valid[:, None].astype(np.float64),
        "activity_annotation": activity[:, None].astype(np.float64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in values.items():
            file.create_dataset(name, data=array, compression="gzip").attrs["MATLAB_class"] = np.bytes_("double")
    # MATLAB 7.3 is HDF5 behind a header: 116 characters, 8 reserved bytes, the version, the byte order.
    header = f"{'MATLAB 7.3 MAT-file, Platform: GLNXA64':<116}".encode("ascii") + bytes(8) + b"\x00\x02IM"
    with path.open("r+b") as stream:
        stream.write(header)


def write_test_calibration(path: Path, camera: Camera, sensor: tuple[float, float] = (10.0, 10.0)) -> None:
    """Write a ``.calib`` of the test set: a camera with a pose (metres), and its sensor's width and height in mm."""
    (fx, fy), (cx, cy) = camera.focal, camera.center
    density = camera.width / sensor[0], camera.height / sensor[1]
    rotation = np.asarray(camera.rotation)
    origin = -1000 * rotation.T @ np.asarray(camera.translation)
    offset = ((cx - camera.width / 2) / density[0], (cy - camera.height / 2) / density[1])
    distortion = (*camera.radial[:2], *camera.tangential, camera.radial[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "tc camera calibration v0.3\n"
        f"camera\t0\t{camera.name}\n"
        "\tframe\t0\n"
        f"\t\tsensorSize\t{sensor[0]:.17g}\t{sensor[1]:.17g}\t# in mm\n"
        f"\t\tfocalLength\t{fx / density[0]:.17g}\t# in mm\n"
        f"\t\tpixelAspect\t{fy / fx:.17g}\n"
        f"\t\tcenterOffset\t{offset[0]:.17g}\t{offset[1]:.17g}\t# in mm (positive values move right and down)\n"
        "\t\tdistortionModel\tOpenCV\n"
        f"\t\tdistortion\t\t{_numbers(np.array(distortion))}\n"
        f"\t\t\torigin\t{_numbers(origin)}\n"
        f"\t\t\tup\t{_numbers(-rotation[1])}\n"
        f"\t\t\tright\t{_numbers(rotation[0])}\n",
        encoding="utf-8",
    )
