"""Fit3D: people who exercise before four cameras, as JSON and videos of 50 Hz.

::

    train/<subject>/videos/<camera>/<action>.mp4                900x900
    train/<subject>/camera_parameters/<camera>/<action>.json
    train/<subject>/joints3d_25/<action>.json
    test/<subject>/videos/<action>.mp4                          one camera, no ground truth
    test/<subject>/camera_parameters/<action>.json

The download's own ``fit3d_train/train`` and ``fit3d_test/test`` are found too. ``joints3d_25`` is (F, 25, 3), world
coordinates, metres, z up, one pose a video frame; its legs are left-first, so the first 17 joints aren't H36M_17.
A camera's T is its centre: X_c = R (X_w − T). The videos are distorted, so the intrinsics are
``intrinsics_w_distortion``, with Human3.6M's formula, as the official tools have it.

The official test subjects have no ground truth, so the splits of the published work are made of the official training
subjects; the test subjects are listed with split ``unlabelled`` and annotated without joints. Keys: subject ``s03``,
action ``squat``, subaction 0, camera ``50591643``; a test subject's only camera is ``0``, as its files don't name it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.datasets.base import FilteredReader, Sequence, build_annotation
from etl.datasets.checks import COPY_AGAIN, read_json, require_array, require_folder, require_key, require_known
from etl.datasets.geometry import doubts, measure_body, require_middle, require_rotation
from etl.datasets.sampling import choose_rows, measure_media, picture_size, step_between
from etl.errors import DatasetError
from etl.media.frames import Media
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons_raw import IMAR_25_TO_H36M

Floats = NDArray[np.float64]

RATE_HZ: Final = 50.0
SIZE: Final = (900, 900)
TRAIN: Final = ("s03", "s04", "s05", "s07", "s08", "s09")
TEST: Final = ("s10", "s11")
UNLABELLED: Final = "unlabelled"
UNKNOWN_CAMERA: Final = "0"
TRAIN_HOMES: Final = ("train", "fit3d_train/train")
TEST_HOMES: Final = ("test", "fit3d_test/test")
EARLY_RATIO: Final = 4  # an early release has so many poses a video frame
JOINT_SOURCE: Final = "Fit3D joints3d_25, 17 of 25 joints, projected with distortion"


@dataclass(frozen=True)
class Fit3D(FilteredReader):
    """Reader of Fit3D.

    Parameters
    ----------
    root : Path
        Folder that holds ``train`` and ``test``, or ``fit3d_train`` and ``fit3d_test``; one suffices.
    hz : {25, 50}
        Rows a second; the videos have 50.
    train, test : sequence of str
        Subjects of the two splits, among those with ground truth.
    subjects, actions, cameras : sequence of str, optional
        What to keep; all by default.
    """

    hz: int = 25
    train: SequenceOf[str] = TRAIN
    test: SequenceOf[str] = TEST

    name: ClassVar[str] = "fit3d"
    splits: ClassVar[tuple[str, ...]] = ("train", "test", UNLABELLED)

    def sequences(self) -> list[Sequence]:
        """All sequences of the chosen subjects, and the unlabelled ones; see `DatasetReader.sequences`."""
        root = require_folder(self.root, "Fit3D: the folders train and test")
        step_between(RATE_HZ, self.hz)
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise DatasetError(
                "Each subject must be in one split.", f"{', '.join(both)} in train and in test", "Choose one."
            )
        labelled, unlabelled = _subjects(root, TRAIN_HOMES), _subjects(root, TEST_HOMES)
        if not labelled and not unlabelled:
            raise DatasetError(
                f"{root} must have subjects, as in {TRAIN_HOMES[0]}/s03 or {TRAIN_HOMES[1]}/s03.",
                f"only {sorted(entry.name for entry in root.iterdir())[:12]}",
                "Unpack the release there.",
            )
        if (tuple(self.train), tuple(self.test)) != (TRAIN, TEST):  # of the default split, a part may be there
            require_known("subject with ground truth", [*self.train, *self.test], labelled)
        split_of = dict.fromkeys(self.train, "train") | dict.fromkeys(self.test, "test")
        found = [
            *(s for name, home in labelled.items() if name in split_of for s in _labelled(root, home, split_of[name])),
            *(s for home in unlabelled.values() for s in _unlabelled(root, home)),
        ]
        wanted = {"subject": self.subjects, "action": self.actions, "camera": self.cameras}
        for part, names in wanted.items():
            require_known(part, names, sorted({getattr(sequence.key, part) for sequence in found}))
        return self.select(found)

    def notes(self) -> list[str]:
        """What is in the folder and isn't read, as sentences."""
        others = sorted(set(_subjects(self.root, TRAIN_HOMES)) - {*self.train, *self.test})
        return [f"{subject} is left out: it is in neither split." for subject in others]

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        """One row a frame at the rate asked for; without joints for test subjects; see `DatasetReader.annotate`."""
        root = self.root
        count, size, notes = measure_media(root, sequence.media)
        if count is None and sequence.split == UNLABELLED:
            raise DatasetError("A sequence without ground truth must have a video.", notes[0], "Unpack the release.")
        camera = read_camera(root / sequence.files["camera"], sequence.key.camera, picture_size(root, sequence.media))
        step = step_between(RATE_HZ, self.hz)
        truth: dict[str, Any] = {}
        provenance: dict[str, Any] = {}
        if sequence.split == UNLABELLED:
            rows, left_out = choose_rows(count or 0, None, step)
        else:
            path = root / sequence.files["joints"]
            world = read_joints(path)
            if count is not None:
                require_one_to_one(path, len(world), count)
            points = camera.world_to_camera(world[:, list(IMAR_25_TO_H36M)])
            body = measure_body(path, points)
            provenance["checks"] = {"body": body, "view": check_view(path, points, camera)}
            notes += doubts(body)
            rows, left_out = choose_rows(len(points), count, step)
            pixels = camera.project(points[rows])
            visible = np.isfinite(pixels).min(-1)
            truth = {
                "keypoints_2d": pixels,
                "keypoints_3d": points[rows],
                "visibility": visible.astype(np.float32),
                "valid_annotation": visible.min(-1),  # a joint behind the camera has no pixel
            }
        key = sequence.key
        stem = f"{key.subject}_{key.camera}_{key.action}"
        return build_annotation(
            sequence,
            frame_number=rows,
            **truth,
            camera=camera,
            media_bytes=size,
            rate_hz=self.hz,
            media_rate_hz=RATE_HZ,
            imgname=f"{stem}/{stem}_{{number:06d}}.jpg",
            joint_source=JOINT_SOURCE if truth else "none",
            provenance={"notes": [*notes, *left_out], **provenance},
        )


def read_joints(path: Path) -> Floats:
    """IMAR_25 joints (F, 25, 3) in metres, world coordinates.

    Raises
    ------
    DatasetError
        When the file isn't JSON with finite ``joints3d_25`` of 25 joints.
    """
    values = _object(path, read_json(path))
    joints = require_array(path, "joints3d_25", require_key(path, "joints3d_25", values), ("F", 25, 3), "number")
    return joints.astype(np.float64)


def require_one_to_one(path: Path, poses: int, frames: int) -> None:
    """Refuse an early release, in which there are four poses a video frame.

    A video may be a little longer than its poses, or shorter where it is damaged; between the two ratios there is
    room for both.
    """
    if frames and poses >= (1 + EARLY_RATIO) / 2 * frames:
        raise DatasetError(
            f"{path} must have one pose per video frame.",
            f"{poses} poses for {frames} frames, {poses / frames:.3g} a frame",
            f"An early release of Fit3D has {EARLY_RATIO}: download joints3d_25 again, or the whole video.",
        )


def read_camera(path: Path, name: str, size: tuple[int, int] | None) -> Camera:
    """The camera of one action, with distortion and pose.

    Parameters
    ----------
    path : Path
        ``camera_parameters/<camera>/<action>.json``.
    name : str
        Its name.
    size : (int, int), optional
        Of the video's frames; the release's where they can't be read.

    Raises
    ------
    DatasetError
        When the file isn't what the release says, or the principal point is nowhere near the frame's middle.
    """
    values = _object(path, read_json(path))
    extrinsics = _object(path, require_key(path, "extrinsics", values), "extrinsics")
    lens = _object(path, require_key(path, "intrinsics_w_distortion", values), "intrinsics_w_distortion")
    rotation = _numbers(path, "R", extrinsics, (3, 3))
    require_rotation(path, "R", rotation)
    place = _numbers(path, "T", extrinsics, (3,))
    focal, center = _numbers(path, "f", lens, (2,)), _numbers(path, "c", lens, (2,))
    width, height = size or SIZE
    (fx, fy), (cx, cy) = focal.tolist(), center.tolist()
    k1, k2, k3 = _numbers(path, "k", lens, (3,)).tolist()
    p1, p2 = _numbers(path, "p", lens, (2,)).tolist()
    a, b, c = (tuple(row) for row in rotation.tolist())
    x, y, z = (-rotation @ place).tolist()
    camera = Camera(
        name, width, height, (fx, fy), (cx, cy), "h36m",
        radial=(k1, k2, k3), tangential=(p1, p2), rotation=(a, b, c), translation=(x, y, z),
    )  # fmt: skip
    return require_middle(path, camera)


def check_view(path: Path, points: Floats, camera: Camera) -> dict[str, float]:
    """The share of joints (F, 17, 3) inside the image; refuses a camera that looks elsewhere.

    The release has no 2D joints to compare with, but people exercise in the middle of the picture; a camera taken
    the wrong way round sees them nowhere.
    """
    pixels = camera.project(points)
    seen = (pixels > 0).min(-1) & (pixels < (camera.width, camera.height)).min(-1)
    share = float(seen.mean())
    if share < 0.5:
        raise DatasetError(
            f"Joints of {path} must be inside the image of camera {camera.name}.",
            f"{share:.0%} of the joints are inside",
            "Joints and camera don't belong together; copy or unpack both files again from the release.",
        )
    return {"inside": round(share, 4)}


def _object(path: Path, value: Any, name: str = "") -> dict[str, Any]:
    """Return `value`, the file's content or that of `name`, if it is a JSON object."""
    if not isinstance(value, dict):
        what = f"{name!r} of {path}" if name else f"{path}"
        raise DatasetError(f"{what} must be a JSON object.", type(value).__name__, COPY_AGAIN)
    return value


def _numbers(path: Path, name: str, values: dict[str, Any], shape: tuple[int, ...]) -> Floats:
    """Numbers of the given shape; a vector may be a row, as in the release."""
    found = require_key(path, name, values)
    if len(shape) == 1 and isinstance(found, list) and len(found) == 1:
        found = found[0]
    return require_array(path, name, found, shape, "number").astype(np.float64)


def _subjects(root: Path, homes: SequenceOf[str]) -> dict[str, str]:
    """Folder, relative to the root, by subject, of the first of `homes` that is there."""
    home = next((home for home in homes if (root / home).is_dir()), None)
    if home is None:
        return {}
    parts = ("camera_parameters", "videos", "joints3d_25")
    folders = sorted(p for p in (root / home).iterdir() if any((p / part).is_dir() for part in parts))
    return {folder.name: f"{home}/{folder.name}" for folder in folders}


def _labelled(root: Path, home: str, split: str) -> Iterator[Sequence]:
    """Sequences of a subject with ground truth: all of which there is a video or a camera."""
    subject = Path(home).name
    files = [*(root / home / "camera_parameters").glob("*/*.json"), *(root / home / "videos").glob("*/*.mp4")]
    for camera, action in sorted({(path.parent.name, path.stem) for path in files}):
        yield Sequence(
            key=SequenceKey("fit3d", subject, action, 0, camera),
            split=split,
            release_name=f"{subject}/{camera}/{action}",
            media=Media("video", f"{home}/videos/{camera}/{action}.mp4"),
            files={
                "camera": f"{home}/camera_parameters/{camera}/{action}.json",
                "joints": f"{home}/joints3d_25/{action}.json",
            },
        )


def _unlabelled(root: Path, home: str) -> Iterator[Sequence]:
    """Sequences of a subject without ground truth."""
    subject = Path(home).name
    files = [*(root / home / "camera_parameters").glob("*.json"), *(root / home / "videos").glob("*.mp4")]
    for action in sorted({path.stem for path in files}):
        yield Sequence(
            key=SequenceKey("fit3d", subject, action, 0, UNKNOWN_CAMERA),
            split=UNLABELLED,
            release_name=f"{subject}/{action}",
            media=Media("video", f"{home}/videos/{action}.mp4"),
            files={"camera": f"{home}/camera_parameters/{action}.json"},
        )
