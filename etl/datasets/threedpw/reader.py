"""3DPW: people outdoors before one moving camera, as Python 2 pickles and JPEGs.

::

    imageFiles/<sequence>/image_00000.jpg            0-based; 1080x1920 or 1920x1080, about 30 Hz
    sequenceFiles/{train,validation,test}/<sequence>.pkl

What is read of a pickle, for F frames and a list of one or two people:

| key | shape | |
|---|---|---|
| sequence | | name, that of the file |
| jointPositions | list of (F, 72) | SMPL's 24 joints, world coordinates, metres |
| poses2d | list of (F, 3, 18) | OpenPose's detections; zeros where it found too little |
| cam_poses | (F, 4, 4) | world-to-camera, metres |
| campose_valid | list of (F,) | 0 or 1 |
| cam_intrinsics | (3, 3) | no distortion; the image is (2 cx, 2 cy) large |

A sequence ``downtown_walking_00`` has the key subject ``downtown`` (the scene), action ``walking``,
subaction 0, camera ``0``; `sequence_name` turns it back. Frames whose camera pose is invalid have no joints (NaN,
visibility 0); these, and frames without a detection, have ``valid_annotation`` false, which is the rule
by which published evaluations choose frames.

The joints are SMPL's own (jointPositions), not those that a regressor takes from SMPL's mesh: hips are
closer together and spine, thorax, neck and head lie elsewhere than in Human3.6M, so figures aren't comparable with
published tables. Joint order, head top and directions: see schemas.skeletons_raw.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.datasets.base import FilteredReader, Sequence, build_annotation
from etl.datasets.checks import COPY_AGAIN, require_array, require_folder, require_key, require_known
from etl.datasets.geometry import doubts, measure_body, require_middle, require_near, require_rotation
from etl.datasets.sampling import choose_rows, measure_media, picture_size
from etl.datasets.threedpw.unpickle import read_pickle
from etl.errors import DatasetError
from etl.media.frames import Media
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17
from schemas.skeletons_raw import COCO_18_FROM_SMPL_24, SMPL_24, SMPL_24_TO_H36M, SMPL_HEAD_TOP

Floats = NDArray[np.float64]

RATE_HZ: Final = 30.0
JOINT_SOURCE: Final = "SMPL jointPositions (24 joints), head top = neck + 1.9 (head - neck)"
NAME: Final = re.compile(r"(?P<scene>[^_]+)_(?P<action>.+)_(?P<number>\d{2})")
CAMERA: Final = "0"  # there is one
# Limbs of OpenPose's detections and SMPL's joints are a few centimetres apart; exchanged axes, or a camera
# pose taken the wrong way round, are far beyond. The bound holds for half of them, as some detections are wild.
DETECTION_BOUND: Final = 0.1  # of the person's larger extent in the image


@dataclass(frozen=True)
class ThreeDPW(FilteredReader):
    """Reader of 3DPW.

    Parameters
    ----------
    root : Path
        Folder that holds ``imageFiles`` and ``sequenceFiles``.
    subjects, actions : sequence of str, optional
        Scenes (``downtown``) and actions (``walking``) to keep; all by default.
    """

    name: ClassVar[str] = "3dpw"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    def sequences(self) -> list[Sequence]:
        """All sequences of all splits, in order of their keys; see `DatasetReader.sequences`."""
        folder = require_folder(self.root / "sequenceFiles", "the folders train, validation and test of 3DPW")
        found: dict[SequenceKey, Sequence] = {}
        for split in self.splits:
            for path in sorted((folder / split).glob("*.pkl")):
                sequence = self._listed(split, path)
                if sequence.key in found:
                    raise DatasetError(
                        f"{path.name} must be in one split of {folder}.",
                        f"it is in {found[sequence.key].split} and in {split}",
                        "Remove the one that isn't the release's.",
                    )
                found[sequence.key] = sequence
        if not found:
            raise DatasetError(
                f"{folder} must have pickles in train, validation or test.",
                "no pickles",
                "Unpack sequenceFiles.zip there.",
            )
        require_known("subject (a scene)", self.subjects, sorted({key.subject for key in found}))
        require_known("action", self.actions, sorted({key.action for key in found}))
        require_known("camera", self.cameras, [CAMERA])
        return self.select(found.values())

    def _listed(self, split: str, path: Path) -> Sequence:
        name = path.stem
        return Sequence(
            key=sequence_key(name),
            split=split,
            release_name=name,
            media=Media("images", f"imageFiles/{name}", "image_{number:05d}.jpg", first=0),
            files={"pickle": path.relative_to(self.root).as_posix()},
        )

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        """One row a frame and person, in camera coordinates; see `DatasetReader.annotate`."""
        root = self.root
        raw = read_sequence(root / sequence.files["pickle"])
        if raw.name != sequence.release_name:
            raise DatasetError(f"{raw.path} must have the sequence of its name.", repr(raw.name), "Name it as it was.")
        count, size, notes = measure_media(root, sequence.media)
        frames, left_out = choose_rows(raw.joints.shape[1], count)
        camera, size_notes = camera_of(raw, picture_size(root, sequence.media))
        smpl = to_camera(raw.joints, raw.cam_poses, raw.campose_valid)
        checks = check_sequence(raw, camera, smpl)
        people = len(smpl)
        points = h36m_joints(smpl[:, frames]).reshape(-1, 17, 3)
        pixels = camera.project(points)
        visible: NDArray[np.bool_] = np.isfinite(pixels).min(-1)
        usable = (raw.campose_valid & detected(raw.poses2d))[:, frames].reshape(-1) & visible.min(-1)
        posed = raw.campose_valid[:, frames].reshape(-1)
        poses = np.where(posed[:, None, None], np.tile(raw.cam_poses[frames], (people, 1, 1)), np.nan)
        return build_annotation(
            sequence,
            frame_number=np.tile(frames, people),
            person=np.repeat(np.arange(people), len(frames)),
            valid_annotation=usable,
            keypoints_2d=pixels,
            keypoints_3d=points,
            visibility=visible.astype(np.float32),
            camera_rotation=poses[:, :3, :3],
            camera_translation=poses[:, :3, 3],
            camera=camera,
            media_bytes=size,
            rate_hz=RATE_HZ,
            media_rate_hz=RATE_HZ,
            imgname=f"{sequence.release_name}/image_{{frame:05d}}.jpg",
            joint_source=JOINT_SOURCE,
            provenance={"notes": [*notes, *left_out, *size_notes, *doubts(checks["body"])], "checks": checks},
        )


@dataclass(frozen=True)
class RawSequence:
    """What a pickle holds, for P people and F frames, checked.

    Parameters
    ----------
    path : Path
        The pickle.
    name : str
        The sequence's own name.
    joints : (P, F, 24, 3) float64
        SMPL_24, world coordinates, metres.
    poses2d : (P, F, 18, 3) float64
        COCO_18: x, y in px, confidence; zeros where nothing was found.
    cam_poses : (F, 4, 4) float64
        World-to-camera.
    campose_valid : (P, F) bool
        Whether the camera's pose fits the image.
    intrinsics : (3, 3) float64
        Pixels.
    """

    path: Path
    name: str
    joints: Floats
    poses2d: Floats
    cam_poses: Floats
    campose_valid: NDArray[np.bool_]
    intrinsics: Floats


def read_sequence(path: Path) -> RawSequence:
    """Read and check one pickle.

    Raises
    ------
    DatasetError
        When it isn't a pickle of plain arrays, or an array isn't what the release says.
    """
    values = read_pickle(path)
    if not isinstance(values, dict):
        raise DatasetError(f"{path} must be a dict.", type(values).__name__, COPY_AGAIN)
    positions = _people(path, values, "jointPositions")
    first = require_array(path, "jointPositions[0]", positions[0], ("F", 72))
    frames, people = len(first), len(positions)

    def each(name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A variable of all people, stacked."""
        items = _people(path, values, name)
        if len(items) != people:
            raise DatasetError(
                f"{name!r} of {path} must have as many people as 'jointPositions', {people}.",
                f"{len(items)}",
                COPY_AGAIN,
            )
        return np.stack(
            [require_array(path, f"{name}[{i}]", item, (frames, *shape), dtype) for i, item in enumerate(items)]
        )

    valid = each("campose_valid", (), "bool")
    # Where no person has a valid camera pose, the pose may be anything, NaN included.
    cam_poses = require_array(path, "cam_poses", require_key(path, "cam_poses", values), (frames, 4, 4), finite=False)
    used = cam_poses[valid.any(0)]
    require_array(path, "cam_poses where campose_valid", used, (len(used), 4, 4))
    if len(used):
        require_rotation(path, "cam_poses", used[:, :3, :3])
    intrinsics = require_array(path, "cam_intrinsics", require_key(path, "cam_intrinsics", values), (3, 3), "number")
    fits = intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0 and not np.any(intrinsics[[0, 1, 2, 2], [1, 0, 0, 1]])
    if not fits:
        raise DatasetError(
            f"'cam_intrinsics' of {path} must be [fx 0 cx; 0 fy cy; 0 0 1].", f"{intrinsics.tolist()}", COPY_AGAIN
        )
    return RawSequence(
        path,
        str(require_key(path, "sequence", values)),
        each("jointPositions", (72,), "float").reshape(people, frames, 24, 3).astype(np.float64),
        each("poses2d", (3, 18), "float").swapaxes(-1, -2).astype(np.float64),
        cam_poses.astype(np.float64),
        valid,
        intrinsics.astype(np.float64),
    )


def _people(path: Path, values: dict[Any, Any], name: str) -> list[Any]:
    """A variable that is a list of one entry a person."""
    items = require_key(path, name, values)
    if not isinstance(items, list | tuple) or not items:
        found = f"{len(items)} entries" if isinstance(items, list | tuple) else type(items).__name__
        raise DatasetError(f"{name!r} of {path} must be a list with one entry per person.", found, COPY_AGAIN)
    return list(items)


def to_camera(joints: Floats, cam_poses: Floats, valid: NDArray[np.bool_]) -> Floats:
    """Camera coordinates X_c = R X_w + t of joints (P, F, J, 3); NaN where `valid` (P, F) is false.

    The direction, world-to-camera, is that of the dataset's official demo, which projects so.
    """
    rotation, translation = cam_poses[:, :3, :3], cam_poses[:, :3, 3]
    moved = np.einsum("fij,pfnj->pfni", rotation, joints) + translation[None, :, None]
    return np.where(valid[..., None, None], moved, np.nan)


def h36m_joints(smpl: Floats) -> Floats:
    """H36M_17 joints (..., 17, 3) of SMPL_24 joints (..., 24, 3); the head's top is extrapolated from the neck."""
    joints = smpl[..., list(SMPL_24_TO_H36M), :]
    neck, head = smpl[..., SMPL_24.index("neck"), :], smpl[..., SMPL_24.index("head"), :]
    joints[..., H36M_17.index("head"), :] = neck + SMPL_HEAD_TOP * (head - neck)
    return joints


def detected(poses2d: Floats) -> NDArray[np.bool_]:
    """Whether the release has a detection (P, F): it stores zeros where fewer than 6 joints were found."""
    found: NDArray[np.bool_] = (poses2d != 0).max(axis=(-1, -2))
    return found


def camera_of(raw: RawSequence, size: tuple[int, int] | None) -> tuple[Camera, list[str]]:
    """The camera without its pose, which changes every frame, and notes.

    Parameters
    ----------
    raw : RawSequence
        Has the intrinsics; the official demo takes the image to be (2 cx, 2 cy) large.
    size : (int, int), optional
        What the images say; it wins.

    Raises
    ------
    DatasetError
        When the images can't be those that the intrinsics were made for.
    """
    (fx, _, cx), (_, fy, cy), _ = raw.intrinsics.tolist()
    expected = (round(2 * cx), round(2 * cy))
    width, height = size or expected
    notes = [] if (width, height) == expected else [f"images of {width}x{height}, twice the centre is {expected}"]
    return require_middle(raw.path, Camera(CAMERA, width, height, (fx, fy), (cx, cy))), notes


def check_sequence(raw: RawSequence, camera: Camera, smpl: Floats) -> dict[str, Any]:
    """Measure units, sides, and the distance of joints (P, F, 24, 3) from the detections; refuse what can't be."""
    feet = [SMPL_24.index(name) for name in ("left_foot", "right_foot")]
    ankles = [SMPL_24.index(name) for name in ("left_ankle", "right_ankle")]
    front = (smpl[..., feet, :] - smpl[..., ankles, :]).sum(-2).reshape(-1, 3)  # SMPL has no face
    body = measure_body(raw.path, h36m_joints(smpl).reshape(-1, 17, 3), front)
    coco, own = (list(pair) for pair in zip(*COCO_18_FROM_SMPL_24, strict=True))
    pixels = camera.project(smpl)
    extent = np.ptp(pixels, axis=-2).max(-1)
    distance = np.linalg.norm(pixels[..., own, :] - raw.poses2d[..., coco, :2], axis=-1) / extent[..., None]
    distance = np.where(np.isnan(distance), np.inf, distance)
    compared = (raw.poses2d[..., coco, 2] > 0) & raw.campose_valid[..., None]
    near = require_near(raw.path, distance[compared], DETECTION_BOUND, 0.5, "of the person's size")
    return {"body": body, "distance_from_detections": near}


def sequence_key(name: str) -> SequenceKey:
    """Key of a sequence by the release's name: scene, action, number.

    Raises
    ------
    DatasetError
        When the name isn't of that form.
    """
    match = NAME.fullmatch(name)
    if not match:
        raise DatasetError(
            "3DPW's sequences must be named <scene>_<action>_<two digits>.",
            repr(name),
            "Rename the file, or remove it.",
        )
    return SequenceKey("3dpw", match["scene"], match["action"], int(match["number"]), CAMERA)


def sequence_name(key: SequenceKey) -> str:
    """The release's name of a sequence; the inverse of `sequence_key`."""
    return f"{key.subject}_{key.action}_{key.subaction:02d}"
