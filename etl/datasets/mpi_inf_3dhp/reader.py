"""MPI-INF-3DHP: eight people before fourteen cameras for training, six short films for testing.

::

    S{1..8}/Seq{1,2}/annot.mat                        MATLAB v5: annot2, annot3, cells of 14 cameras
    S{1..8}/Seq{1,2}/camera.calibration               world-to-camera, mm
    S{1..8}/Seq{1,2}/imageSequence/video_{0..13}.avi  2048x2048
    mpi_inf_3dhp_test_set/TS{1..6}/annot_data.mat     MATLAB v7.3 (HDF5)
    mpi_inf_3dhp_test_set/TS{1..6}/imageSequence/img_000001.jpg
    mpi_inf_3dhp_test_set/test_util/camera_calibration/ts{1-4,5-6}cameras.calib

The training set is also found below ``train``, the test set below ``test``; extracted images by the names in
TRAIN_IMAGES and TEST_IMAGES.

annot2 (F, 56) and annot3 (F, 84) are 28 joints, interleaved, in px and in millimetres in that camera's coordinates;
the test set has 17, (F, 1, 17, 2) and (F, 1, 17, 3). univ_annot3, normalised in height, isn't read: it doesn't project
onto annot2. Keys: subject ``S1``, action ``Seq1``, camera ``0`` to ``13``; subject ``TS1``, action ``Test``,
camera ``0``. What people do in the test set changes within a film: the variable ``activity`` (frame,) tells.

Joints are stored in H36M_17's order. MMPose's own files keep the release's order, with the pelvis at 14:
``points[:, H36M_TO_MPI_INF_3DHP_17]``, which is in the provenance as ``mmpose_order``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.datasets.base import FilteredReader, Sequence, build_annotation
from etl.datasets.checks import COPY_AGAIN, require_folder, require_known
from etl.datasets.geometry import doubts, measure_body, measure_reprojection
from etl.datasets.mpi_inf_3dhp.annotations import ACTIVITIES, read_annotations, read_test_annotations
from etl.datasets.mpi_inf_3dhp.calibration import read_calibration, read_test_calibration
from etl.datasets.sampling import choose_rows, measure_media, picture_size, require_size, step_between
from etl.errors import DatasetError
from etl.media.frames import Media
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons_raw import H36M_TO_MPI_INF_3DHP_17, MPI_INF_3DHP_28_TO_H36M

Floats = NDArray[np.float64]

CAMERA_SETS: Final[dict[str, tuple[int, ...]]] = {
    "vnect": (0, 1, 2, 4, 5, 6, 7, 8),  # MMPose's choice
    "chest": (0, 2, 4, 7, 8),
    "all": tuple(range(14)),
}
# Frames with annotations, as the official scripts and MMPose state them; files may have rows beyond.
FRAMES: Final[dict[tuple[str, str], int]] = {
    (f"S{subject + 1}", f"Seq{sequence + 1}"): count
    for subject, pair in enumerate((
        (6416, 12430), (6502, 6081), (12488, 12283), (6171, 6675),
        (12820, 12312), (6188, 6145), (6239, 6320), (6468, 6054),
    ))
    for sequence, count in enumerate(pair)
}  # fmt: skip
FAST: Final = frozenset({("S1", "Seq2"), ("S3", "Seq1"), ("S3", "Seq2"), ("S5", "Seq1"), ("S5", "Seq2")})  # 50 Hz
TEST_SUBJECTS: Final = ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
OUTDOOR: Final = ("TS5", "TS6")  # another camera, 1920x1080
TEST_ACTION: Final = "Test"
TRAIN_HOMES: Final = ("", "train", "mpi_inf_3dhp_train_set")
TEST_HOMES: Final = ("mpi_inf_3dhp_test_set/mpi_inf_3dhp_test_set", "mpi_inf_3dhp_test_set", "test", "")
# Folder and pattern of images extracted from the videos; {stem} is MMPose's, S1_Seq1_Cam0 or TS1.
TRAIN_IMAGES: Final = (
    ("{home}/{subject}/{action}/imageSequence/video_{camera}", "frame{{number:06d}}.jpg"),
    ("{home}/{subject}/{action}/imageSequence/video_{camera}", "frame_{{number:06d}}.jpg"),
    ("{home}/{subject}/{action}/imageSequence/video_{camera}", "img_{{number:06d}}.jpg"),
    ("images", "{stem}_{{number:06d}}.jpg"),
    ("{home}/images", "{stem}_{{number:06d}}.jpg"),
)
TEST_IMAGES: Final = (
    ("{home}/{subject}/imageSequence", "img_{{number:06d}}.jpg"),
    ("{home}/{subject}/imageSequence", "{stem}_{{number:06d}}.jpg"),
    ("images", "{stem}_{{number:06d}}.jpg"),
    ("{home}/images", "{stem}_{{number:06d}}.jpg"),
)
# Pixels in frames 2048 px wide. In the release's own numbers most joints project within 0.01 px; hips and spine, which
# were moved in 3D, within 2.2.
PROJECTION_BOUND: Final = 5.0
CALIBRATION_BOUND: Final = 3.0
LARGEST_CORRECTION: Final = 0.01
# The intrinsics of the official .calib files in mm and px, for roots without them: see `published_camera`.
PUBLISHED: Final = {
    "ts1-4cameras": ((1500.172288, 1500.832364), (1017.387336, 1043.031982)),
    "ts5-6cameras": ((1683.983460, 1672.593708), (939.857540, 560.140743)),
}


@dataclass(frozen=True)
class MpiInf3DHP(FilteredReader):
    """Reader of MPI-INF-3DHP.

    Parameters
    ----------
    root : Path
        Folder that holds ``S1`` to ``S8`` or ``train``, and ``mpi_inf_3dhp_test_set`` or ``test``; one suffices.
    camera_set : {"vnect", "chest", "all"}
        Cameras of the training set.
    hz : int, optional
        Rows a second of the training set, whose videos have 25 or 50; by default all, as MMPose. With 50, sequences
        that have 25 are refused, each by itself. The test set is always whole: the release doesn't state its rates.
    subjects, actions, cameras : sequence of str, optional
        Subset of ``S1`` to ``S8`` and ``TS1`` to ``TS6``; of ``Seq1``, ``Seq2`` and ``Test``; of ``0`` to ``13``,
        within the camera set (the test set's one camera is ``0``).
    """

    camera_set: Literal["vnect", "chest", "all"] = "vnect"
    hz: int | None = None

    name: ClassVar[str] = "3dhp"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    filters: ClassVar[Mapping[str, Any]] = {**FilteredReader.filters, "camera_set": "all"}

    def sequences(self) -> list[Sequence]:
        """All sequences of both splits, in order of their keys; see `DatasetReader.sequences`."""
        root = require_folder(self.root, "MPI-INF-3DHP: S1 to S8 or train, mpi_inf_3dhp_test_set or test")
        require_known("camera set", [self.camera_set], CAMERA_SETS)
        require_known("subject", self.subjects, [*sorted({subject for subject, _ in FRAMES}), *TEST_SUBJECTS])
        require_known("action", self.actions, ("Seq1", "Seq2", TEST_ACTION))
        require_known(f"camera of the set {self.camera_set!r}", self.cameras, map(str, CAMERA_SETS[self.camera_set]))
        if self.hz != 50:  # which some sequences have, and `annotate` refuses the others
            step_between(50.0, self.hz)
        found = [*self._train(root), *self._test(root)]
        if not found:
            raise DatasetError(
                f"{root} must have S1/Seq1/annot.mat or {TEST_HOMES[1]}/TS1/annot_data.mat.",
                f"only {sorted(entry.name for entry in root.iterdir())[:12]}",
                "Unpack the release there.",
            )
        return self.select(found)

    def _train(self, root: Path) -> Iterator[Sequence]:
        for subject, action in FRAMES:
            home = _home(root, TRAIN_HOMES, f"{subject}/{action}")
            if home is None:
                continue
            folder = f"{home}{subject}/{action}"
            for number in CAMERA_SETS[self.camera_set]:
                camera = str(number)
                video = Media("video", f"{folder}/imageSequence/video_{camera}.avi")
                stem = f"{subject}_{action}_Cam{camera}"
                names = {"home": home.rstrip("/"), "subject": subject, "action": action, "camera": camera, "stem": stem}
                there = (root / video.path).is_file()
                yield Sequence(
                    key=SequenceKey(self.name, subject, action, 0, camera),
                    split="train",
                    release_name=f"{subject}/{action}/video_{camera}",
                    media=video if there else _images(root, TRAIN_IMAGES, names) or video,
                    files={"annotation": f"{folder}/annot.mat", "calibration": f"{folder}/camera.calibration"},
                )

    def _test(self, root: Path) -> Iterator[Sequence]:
        for subject in TEST_SUBJECTS:
            home = _home(root, TEST_HOMES, subject)
            if home is None:
                continue
            names = {"home": home.rstrip("/"), "subject": subject, "stem": subject}
            calibration = "ts5-6cameras" if subject in OUTDOOR else "ts1-4cameras"
            places = [f"{home}{folder}{calibration}.calib" for folder in ("test_util/camera_calibration/", "")]
            place = next((place for place in places if (root / place).is_file()), None)
            files = {"annotation": f"{home}{subject}/annot_data.mat"} | ({"calibration": place} if place else {})
            yield Sequence(
                key=SequenceKey(self.name, subject, TEST_ACTION, 0, "0"),
                split="test",
                release_name=subject,
                media=_images(root, TEST_IMAGES, names)
                or Media("images", f"{home}{subject}/imageSequence", "img_{number:06d}.jpg", first=1),
                files=files,
            )

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        """One row a frame, H36M_17 joints in camera coordinates; see `DatasetReader.annotate`."""
        root, key = self.root, sequence.key
        train = sequence.split == "train"
        rate = (50.0 if (key.subject, key.action) in FAST else 25.0) if train else 0.0
        step = step_between(rate, self.hz) if train else 1
        truth = self._train_truth(root, sequence) if train else self._test_truth(root, sequence)
        count, size, notes = measure_media(root, sequence.media)
        rows, left_out = choose_rows(len(truth.points), count, step)
        pixels = truth.pixels[rows]
        ds = build_annotation(
            sequence,
            frame_number=rows,
            valid_annotation=truth.valid[rows],
            keypoints_2d=pixels,
            keypoints_3d=truth.points[rows],
            visibility=inside(pixels, truth.camera),
            camera=truth.camera,
            media_bytes=size,
            rate_hz=rate / step,
            media_rate_hz=rate,
            imgname=(f"{key.subject}_{key.action}_Cam{key.camera}" if train else key.subject) + "_{number:06d}.jpg",
            joint_source=f"MPI-INF-3DHP annot2 and annot3, 17 of {28 if train else 17} joints",
            provenance={
                "notes": [*truth.notes, *notes, *left_out, *doubts(truth.checks.get("body", {}))],
                "checks": truth.checks,
                "mmpose_order": list(H36M_TO_MPI_INF_3DHP_17),
            },
        )
        if truth.activity is not None:
            flags = {"flag_values": np.arange(len(ACTIVITIES), dtype=np.int8), "flag_meanings": " ".join(ACTIVITIES)}
            ds["activity"] = (("frame",), truth.activity[rows].astype(np.int8), flags)
        return ds

    def _train_truth(self, root: Path, sequence: Sequence) -> Truth:
        path, number = root / sequence.files["annotation"], int(sequence.key.camera)
        pixels, points = (joints[:, list(MPI_INF_3DHP_28_TO_H36M)] for joints in read_annotations(path, number))
        calibration = root / sequence.files["calibration"]
        cameras = read_calibration(calibration)
        if sequence.key.camera not in cameras:
            raise DatasetError(
                f"{calibration} must have camera {sequence.key.camera}.", f"only {', '.join(cameras)}", COPY_AGAIN
            )
        camera = cameras[sequence.key.camera]
        require_size(root, sequence.media, camera.width, camera.height)
        limit = FRAMES[sequence.key.subject, sequence.key.action]
        notes = []
        if len(points) > limit:
            notes.append(f"{len(points)} rows, of which the release states {limit}: the others are left out")
            pixels, points = pixels[:limit], points[:limit]
        checks = {
            "projection_px": measure_reprojection(path, camera, points, pixels, _scaled(PROJECTION_BOUND, camera)),
            "body": measure_body(path, points),
        }
        return Truth(points, pixels, np.ones(len(points), bool), camera, notes, checks)

    def _test_truth(self, root: Path, sequence: Sequence) -> Truth:
        path = root / sequence.files["annotation"]
        pixels, points, valid, activity = read_test_annotations(path)
        size = picture_size(root, sequence.media)
        camera, notes = self._test_camera(root, sequence, size)
        camera, checks, more = fitting_camera(path, camera, points[valid], pixels[valid])
        checks["body"] = measure_body(path, points[valid])
        return Truth(points, pixels, valid, camera, [*notes, *more], checks, activity)

    def _test_camera(self, root: Path, sequence: Sequence, size: tuple[int, int] | None) -> tuple[Camera, list[str]]:
        """The calibration's camera for images of `size`, or the release's size where there are none."""
        outdoor = sequence.key.subject in OUTDOOR
        released = (1920, 1080) if outdoor else (2048, 2048)
        size = size or released
        if "calibration" not in sequence.files:
            if size != released:
                raise DatasetError(
                    f"Images of {sequence.key.subject} must be {released[0]}x{released[1]}.",
                    f"{size[0]}x{size[1]}",
                    "Use the release's own images.",
                )
            focal, center = PUBLISHED["ts5-6cameras" if outdoor else "ts1-4cameras"]
            return Camera("0", *size, focal, center), ["no .calib file: the intrinsics are the published ones"]
        path = root / sequence.files["calibration"]
        camera, bent = read_test_calibration(path, "0", size)
        note = f"{path.name} lists a lens's distortion, of which the annotations are free"
        return camera, [note] if bent else []


@dataclass(frozen=True)
class Truth:
    """What the files of one sequence hold, checked.

    Parameters
    ----------
    points : (F, 17, 3) float64
        Camera coordinates, metres, H36M_17.
    pixels : (F, 17, 2) float64
        The release's own 2D joints.
    valid : (F,) bool
        The release calls the frame usable.
    camera : Camera
        Projects the points onto the pixels.
    notes, checks
        For the provenance.
    activity : (F,) int, optional
        Index into ACTIVITIES.
    """

    points: Floats
    pixels: Floats
    valid: NDArray[np.bool_]
    camera: Camera
    notes: list[str] = field(default_factory=list)
    checks: dict[str, Any] = field(default_factory=dict)
    activity: NDArray[np.integer] | None = None


def fitting_camera(
    path: Path, camera: Camera, points: Floats, pixels: Floats
) -> tuple[Camera, dict[str, Any], list[str]]:
    """The camera that projects a test sequence's 3D joints onto its 2D joints, with measurements and notes.

    That is the calibration's, unless it is off by more than CALIBRATION_BOUND, as with TS2 of the release,
    whose joints were made with another principal point (by about 4 px in x and y). Then focal lengths and principal
    point are fitted to the joints by least squares, which is what MMPose does for all test sequences.

    Raises
    ------
    DatasetError
        When the fitted camera doesn't project them either.
    """
    if not len(points):
        return camera, {}, ["no frame is valid, so the camera isn't checked"]
    try:
        bound = _scaled(CALIBRATION_BOUND, camera)
        return camera, {"projection_px": measure_reprojection(path, camera, points, pixels, bound)}, []
    except DatasetError as error:
        off = error.found
    plane = points[..., :2] / points[..., 2:]
    (fx, cx), (fy, cy) = (
        np.polyfit(plane[..., axis].reshape(-1), pixels[..., axis].reshape(-1), 1).tolist() for axis in (0, 1)
    )
    fitted = replace(camera, focal=(fx, fy), center=(cx, cy))
    moved = np.abs(np.subtract((fx, fy, cx, cy), (*camera.focal, *camera.center))).max() / camera.width
    if not moved <= LARGEST_CORRECTION:
        raise DatasetError(
            f"The camera of {path} must be the calibration's within {LARGEST_CORRECTION:.0%} of the image's width.",
            f"off by {off}; fitted to the joints, its f is ({fx:.5g}, {fy:.5g}) and its c ({cx:.5g}, {cy:.5g})",
            "Use the release's own images and calibration: joints don't fit resized images.",
        )
    bound = _scaled(PROJECTION_BOUND, camera)
    checks = {"projection_px": measure_reprojection(path, fitted, points, pixels, bound)}
    note = f"the calibration's camera (f {camera.focal}, c {camera.center}) is off by {off}: f and c are fitted"
    return fitted, checks, [note]


def inside(pixels: Floats, camera: Camera) -> NDArray[np.float32]:
    """Visibility (..., 17) as MMPose has it: 1 for joints inside the image, 0 <= x < width and 0 <= y < height.

    MMPose takes 2048x2048 for all sequences; here it is the image's own size, which differs for TS5 and TS6.
    """
    low, high = pixels.min(-1) >= 0, (pixels < (camera.width, camera.height)).min(-1)
    return (low & high).astype(np.float32)


def _scaled(bound: float, camera: Camera) -> float:
    """A bound for frames 2048 px wide, in px of the camera's frames."""
    return bound * camera.width / 2048


def _home(root: Path, homes: SequenceOf[str], folder: str) -> str | None:
    """The first of `homes` that holds `folder`, with a slash at its end unless it is the root."""
    for home in homes:
        if (root / home / folder).is_dir():
            return f"{home}/" if home else ""
    return None


def _images(root: Path, places: SequenceOf[tuple[str, str]], names: dict[str, str]) -> Media | None:
    """The first layout of extracted images of which there is any image."""
    for folder, pattern in places:
        media = Media("images", folder.format(**names).lstrip("/"), pattern.format(**names), first=1)
        if media.image_path(root, 0).is_file() or media.pattern in _patterns(root / media.path):
            return media
    return None


def _patterns(folder: Path) -> frozenset[str]:
    """Names of the images in a folder, with their numbers as in TRAIN_IMAGES; none where there is no folder."""
    try:
        return _list_patterns(folder, folder.stat().st_mtime_ns)
    except OSError:
        return frozenset()


@lru_cache(maxsize=16)
def _list_patterns(folder: Path, mtime_ns: int) -> frozenset[str]:
    # A flat folder has a million images of all sequences, so each folder is listed once.
    with os.scandir(folder) as entries:
        return frozenset(re.sub(r"\d{6}(?=\.jpg$)", "{number:06d}", entry.name) for entry in entries)
