"""A model set that answers with the truth of a miniature dataset."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo.recording import PersonTruth, SequenceTruth, read_truth
from etl.errors import ModelError
from etl.models import geometry
from etl.models.base import ArrayDepth, DepthField, Detections, Embeddings, Frame, Poses
from etl.stages.blocks.people import box_of_keypoints, iou, published_boxes
from schemas.keys import SequenceKey
from schemas.skeletons import COCO_17

__all__ = ["PersonTruth", "Routing", "SceneTruth", "SequenceTruth", "build", "read_truth"]

Floats = NDArray[np.floating[Any]]


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
        matrix = geometry.crop_matrix(centers, sizes, self.rotation, self.input_size)
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
    confidence : float
        Of every joint.
    check_images : bool
        Refuse a frame whose image is that of another frame of the sequence.
    log : Path, optional
        A file to which every block appends a line "<block> <frame number> <sequence>" for each frame that it sees, so
        that calls in other processes can be counted.
    """

    channels = (0, 0)

    def __init__(
        self,
        folder: Path,
        routing: Routing | None = None,
        confidence: float = 1.0,
        check_images: bool = False,
        log: Path | None = None,
    ) -> None:
        self.folder, self.routing, self.confidence = folder, routing or Routing(), confidence
        self.check_images, self.log = check_images, log
        self.calls: Counter[str] = Counter()
        self.frames: Counter[tuple[str, SequenceKey, int]] = Counter()
        self._paths = read_truth(folder)
        self._loaded: OrderedDict[SequenceKey, SequenceTruth] = OrderedDict()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """See `etl.models.base.ModelSet`."""
        files = {str(key): hashlib.sha256(path.read_bytes()).hexdigest() for key, path in self._paths.items()}
        return {
            "name": "truth",
            "files": files,
            "routing": json.loads(json.dumps(vars(self.routing))),
            "confidence": self.confidence,
        }

    def truth(self, key: SequenceKey) -> SequenceTruth:
        """The truth of a sequence; the last four are kept."""
        if key not in self._paths:
            raise ModelError(
                "The truth of a rendered dataset covers its sequences.", str(key), "Use that dataset only."
            )
        if key not in self._loaded:
            while len(self._loaded) >= 4:
                self._loaded.popitem(last=False)
            self._loaded[key] = SequenceTruth.read(self._paths[key])
        return self._loaded[key]

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
        """COCO_17 joints of the person in every box, by way of the routing."""
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
            scores = np.full(keypoints.shape[:2], self.confidence, np.float32)
            poses.append(Poses(keypoints, scores, found.boxes, found.scores))
        return poses

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        """The depth map of the scene, background too."""
        return [ArrayDepth(self.truth(frame.key).depth(frame.number)) for frame in self._seen("depth", frames)]

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Floats]) -> list[Embeddings]:
        """Nothing: the truth has no features."""
        return [Embeddings() for _ in poses]

    def _seen(self, block: str, frames: Sequence[Frame]) -> Sequence[Frame]:
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


def build(
    folder: str,
    *,
    input_size: tuple[int, int] | None = None,
    box_padding: float = 1.25,
    keep_aspect: bool = True,
    rotation: float = 0.0,
    flip: bool = False,
    confidence: float = 1.0,
    check_images: bool = True,
    log: str | None = None,
) -> SceneTruth:
    """The set ``etl.demo.truth:build`` of a configuration: see `SceneTruth` and `Routing` for its options."""
    size = None if input_size is None else (int(input_size[0]), int(input_size[1]))
    routing = Routing(size, box_padding, keep_aspect, rotation, flip)
    return SceneTruth(Path(folder), routing, confidence, check_images, None if log is None else Path(log))
