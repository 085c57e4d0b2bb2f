"""Reads the truth of a miniature dataset, and answers with it as a model set."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo.recording import FOLDER, STEP, thumbnail
from etl.errors import ModelError
from etl.models import geometry
from etl.models.base import ArrayDepth, DepthField, Detections, Embeddings, Frame, Poses
from etl.stages.blocks.people import box_of_keypoints, iou, published_boxes
from schemas.camera import Camera
from schemas.keys import SequenceKey
from schemas.skeletons import COCO_17, COCO_TO_H36M

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PersonTruth:
    """All that is known of one person in one sequence.

    Parameters
    ----------
    coco_2d, h36m_2d : (F, 17, 2) float64
        px. The conventions differ in thorax, spine, neck base and head; limbs are equal.
    coco_3d, h36m_3d : (F, 17, 3) float64
        Camera coordinates, metres.
    coco_visible, h36m_visible : (F, 17) bool
        Not hidden behind another part of a body, nor outside the image.
    windows : (F, 4) int32
        x0, y0, x1, y1 of the pixels that show the person, end excluded.
    """

    coco_2d: Floats
    coco_3d: Floats
    coco_visible: NDArray[np.bool_]
    h36m_2d: Floats
    h36m_3d: Floats
    h36m_visible: NDArray[np.bool_]
    windows: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def converted_visible(self) -> NDArray[np.bool_]:
        """(F, 17), H36M_17: every COCO joint that the pipeline converts to the joint is visible."""
        return np.stack([self.coco_visible[:, list(sources)].all(1) for sources in COCO_TO_H36M], axis=1)


@dataclass(frozen=True)
class SequenceTruth(PersonTruth):
    """All that is known of one sequence: of its first person, and what all people share.

    Parameters
    ----------
    key : SequenceKey
        The sequence.
    camera : Camera
        Its camera; without a pose where the camera moves.
    rooms : (B, H, W) uint16
        Depth of the empty room in units of STEP; one for each place of the camera.
    backgrounds : (F,) int32
        Which of them is behind each frame.
    extents : (F, 4) int32
        x0, y0, x1, y1 of all people's pixels, end excluded.
    patches : (sum of the extents' areas,) uint16
        Depth of the people in the extents, row by row, in units of STEP; 0 where the background shows.
    owners : (sum of the extents' areas,) uint8
        Whom the pixels show: 1 for the first person; 0 where the background shows.
    thumbnails : (F, h, w) uint8
        Grey, for telling frames apart.
    others : tuple of PersonTruth
        The second person and further ones.
    """

    key: SequenceKey
    camera: Camera
    rooms: NDArray[np.uint16]
    backgrounds: NDArray[np.int32]
    extents: NDArray[np.int32]
    patches: NDArray[np.uint16]
    owners: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    others: tuple[PersonTruth, ...]

    @classmethod
    def read(cls, path: Path) -> SequenceTruth:
        """Read what `etl.demo.recording.film` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        stacked = {field.name: arrays.pop(field.name) for field in fields(PersonTruth)}
        count = stacked["windows"].shape[1]
        first, *others = ({name: values[:, person] for name, values in stacked.items()} for person in range(count))
        return cls(
            **first,
            key=SequenceKey(*json.loads(str(arrays.pop("key")))),
            camera=Camera.from_dict(json.loads(str(arrays.pop("camera")))),
            **arrays,
            others=tuple(PersonTruth(**person) for person in others),
        )

    @property
    def people(self) -> tuple[PersonTruth, ...]:
        """Everybody, the first person too."""
        return (self, *self.others)

    def depth(self, number: int) -> NDArray[np.float32]:
        """Depth map (H, W) of a frame: metres along the camera's z axis, exact to an eighth of a millimetre."""
        units = self.rooms[self.backgrounds[number]].copy()
        part, patch = self._part(self.patches, number)
        units[part] = np.where(patch > 0, patch, units[part])
        return (units * np.float32(STEP)).astype(np.float32)

    def mask(self, number: int, person: int | None = None) -> NDArray[np.bool_]:
        """The pixels (H, W) of a person in a frame, or of anybody."""
        shown = np.zeros(self.rooms.shape[1:], bool)
        part, owners = self._part(self.owners, number)
        shown[part] = owners > 0 if person is None else owners == person + 1
        return shown

    def _part(self, values: NDArray[Any], number: int) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """Rows and columns of a frame that show people, and the frame's `values` there."""
        x0, y0, x1, y1 = self.extents[: number + 1].astype(np.int64).T
        areas = (x1 - x0) * (y1 - y0)
        part = slice(y0[-1], y1[-1]), slice(x0[-1], x1[-1])
        return part, values[areas[:-1].sum() : areas.sum()].reshape(y1[-1] - y0[-1], x1[-1] - x0[-1])

    def nearest(self, image: NDArray[np.uint8]) -> int:
        """Number of the frame that looks most like `image` (H, W, 3), lossy coding and all."""
        difference = self.thumbnails.astype(np.float32) - thumbnail(image)
        return int((difference**2).mean((1, 2)).argmin())


def read_truth(folder: Path) -> dict[SequenceKey, Path]:
    """The truth files below a miniature dataset's folder, by sequence."""
    found = {}
    for path in sorted((folder / FOLDER).rglob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found[SequenceKey(*json.loads(str(file["key"])))] = path
    if not found:
        raise ModelError(
            f"{folder / FOLDER} holds the truth of a rendered dataset.", "no npz file", "Render it with `xycd demo`."
        )
    return found


@dataclass(frozen=True)
class Routing:
    """Path of the true joints through a network's input before they are returned as an answer.

    Parameters
    ----------
    input_size : (int, int), optional
        Width and height of the crop, px. None: joints are answered as they are.
    box_padding : float
        Factor on the person's box; below 1 some joints lie outside the crop.
    keep_aspect : bool
        Grow the box to the crop's aspect; otherwise it is stretched.
    rotation : float
        Turn of the region, rad.
    flip : bool
        Mirror the crop: left and right change names on the way in and again on the way out.
    """

    input_size: tuple[int, int] | None = None
    box_padding: float = 1.25
    keep_aspect: bool = True
    rotation: float = 0.0
    flip: bool = False

    def __call__(self, joints: Floats, box: Floats) -> Floats:
        """Joints (17, 2) px to the crop of `box` (4,), as float32 as a network's, and back."""
        if self.input_size is None:
            return joints
        width, height = self.input_size
        centers, sizes = geometry.pad_boxes(box, self.box_padding, width / height if self.keep_aspect else None)
        matrix = geometry.crop_matrix(centers, sizes, self.rotation, (width, height))
        order = np.arange(len(COCO_17))
        if self.flip:
            matrix = geometry.flip_matrix(width) @ matrix
            order[[*COCO_17.left, *COCO_17.right]] = [*COCO_17.right, *COCO_17.left]
        seen = geometry.apply(matrix, joints)[order].astype(np.float32)
        return geometry.apply(geometry.invert(matrix), seen[order])


class SceneTruth:
    """A model set that answers with a rendered dataset's truth, for tests of everything around it.

    Parameters
    ----------
    folder : Path
        The miniature dataset.
    routing : Routing
        The way of the joints through a crop.
    check_images : bool
        Refuse a frame whose image is that of another frame of the sequence.
    log : Path, optional
        A file to which every block appends a line "<block> <frame number> <sequence>" for each frame that it sees, so
        that calls in other processes can be counted.
    """

    channels = (0, 0)

    def __init__(
        self, folder: Path, routing: Routing | None = None, check_images: bool = False, log: Path | None = None
    ) -> None:
        self.folder, self.routing = folder, routing or Routing()
        self.check_images, self.log = check_images, log
        self.calls: Counter[str] = Counter()
        self.frames: Counter[tuple[str, SequenceKey, int]] = Counter()
        self._paths = read_truth(folder)
        self._read = functools.lru_cache(maxsize=4)(SequenceTruth.read)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """See `etl.models.base.ModelSet`."""
        files = {str(key): hashlib.sha256(path.read_bytes()).hexdigest() for key, path in self._paths.items()}
        routing = json.loads(json.dumps(vars(self.routing)))
        return {"name": "truth", "files": files, "routing": routing, "confidence": 1.0}

    def truth(self, key: SequenceKey) -> SequenceTruth:
        """The truth of a sequence; the last four are kept."""
        if key not in self._paths:
            raise ModelError(
                "The truth of a rendered dataset covers its sequences.", str(key), "Use that dataset only."
            )
        return self._read(self._paths[key])

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """The boxes of the pixels of everybody in the picture, the largest first, as a detector has no other order."""
        found = []
        for frame in self._seen("detect", frames):
            people = self.truth(frame.key).people
            # Windows end after the last pixel; a box's corners are the centres of its corner pixels.
            boxes = np.array([p.windows[frame.number] for p in people], np.float32) - np.array([0, 0, 1, 1], np.float32)
            areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
            order = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i] > 0]
            scores = np.ones(len(order), np.float32)
            found.append(Detections(boxes[order], scores, {"person": np.array(order, np.intp)}))
        return found

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        """COCO_17 joints of the person in every box, by way of the routing; all scores are 1."""
        poses = []
        for frame, found in zip(self._seen("pose", frames), detections, strict=True):
            people = self.truth(frame.key).people
            joints = np.stack([person.coco_2d[frame.number] for person in people])
            if "person" in found.own:
                who = found.own["person"]
            else:  # annotated boxes hold the person around whose joints they were made
                height, width = frame.image.shape[:2]
                tight = box_of_keypoints(np.stack([person.h36m_2d[frame.number] for person in people]))
                who = iou(found.boxes, published_boxes(tight, width, height)).argmax(1)
            each = [self.routing(joints[i], box) for i, box in zip(who, found.boxes, strict=True)]
            keypoints = np.array(each, np.float32).reshape(-1, len(COCO_17), 2)
            poses.append(Poses(keypoints, np.ones(keypoints.shape[:2], np.float32), found.boxes, found.scores))
        return poses

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        """The depth map of the scene, background too."""
        return [ArrayDepth(self.truth(frame.key).depth(frame.number)) for frame in self._seen("depth", frames)]

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Floats]) -> list[Embeddings]:
        """Nothing: the truth has no features."""
        return [Embeddings() for _ in poses]

    def _seen(self, block: str, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Check and count the frames that a block sees."""
        self.calls[block] += 1
        for frame in frames:
            truth = self.truth(frame.key)
            if not 0 <= frame.number < len(truth):
                found = f"frame {frame.number} of {frame.key}, which has {len(truth)}"
                raise ModelError("The truth covers the frames of the video.", found, "Render the dataset again.")
            if self.check_images and (nearest := truth.nearest(frame.image)) != frame.number:
                found = f"the image of frame {nearest} as frame {frame.number} of {frame.key}"
                raise ModelError("A frame has its own image.", found, "Fix the decoding.")
            self.frames[block, frame.key, frame.number] += 1
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write("".join(f"{block} {frame.number} {frame.key}\n" for frame in frames))
        return frames


def build(folder: str, *, check_images: bool = True, log: str | None = None, **routing: Any) -> SceneTruth:
    """The set ``etl.demo.truth:build`` of a configuration: with the options of `SceneTruth` and `Routing`."""
    return SceneTruth(Path(folder), Routing(**routing), check_images, Path(log) if log else None)
