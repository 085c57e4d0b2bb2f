"""The embedded model set: BlazePose GHUM on LiteRT, from the MediaPipe wheel. Needs no model hub and no GPU.

A detector proposes people, a landmark network confirms each and gives its pose, a mask, and landmarks in
metres, from which depth follows (`etl.models.embedded.depth`). Real and metric, but coarse: 8-11 px on
standing people of Human3.6M, root depth within some 5 %. It runs on every machine; it isn't meant to make
features for training final models.

MediaPipe runs the landmark network on videos again, on the region that its first landmarks give. That was
measured and left out: 9.1 px instead of 8.8 px on rendered figures, the same on real images.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from etl.errors import ModelError
from etl.models import geometry
from etl.models.base import DepthField, Detections, Embeddings, Frame, Poses
from etl.models.embedded import decode, depth
from etl.models.embedded.people import Person, remove_duplicates
from etl.models.embedded.people import poses as to_poses
from etl.models.embedded.settings import Parameters, parse
from etl.models.files import weights

Floats = NDArray[np.float64]
Tile = tuple[float, float, float]  # x, y, side of a square of the image, px

DETECTOR_FILE: Final = "pose_detection.tflite"
LANDMARK_FILE: Final = "pose_landmark_full.tflite"

LEAST_REGION: Final = 8.0  # px; smaller regions show no body

HIPS: Final = (23, 24)

# Of `geometry.warp`. A finer grid than this costs 2.5 ms more a frame of 1000 px and finds rendered people no better
# (7.1 px instead of 7.05); small people in tiles, which stride 1.25, do need it.
_DETECTOR_STRIDE: Final = 1.2
_LANDMARK_STRIDE: Final = 1.5

_HEAT_MAPS: Final = (1, 64, 64, 39)  # the landmarks' own; they are read from them inside the network

# Raise it whenever this code gives other values for the same networks and parameters.
IMPLEMENTATION: Final = 3


def build(options: Mapping[str, Any], cache: Path | None = None) -> BlazePose:
    """Build the set from options by name: `threads`, and the fields of `Parameters`.

    Raises
    ------
    ConfigError
        When an option is unknown or out of range.
    ModelError
        When the files are absent, damaged or can't be loaded.
    """
    threads, parameters = parse(options)
    return BlazePose(cache, threads=threads, parameters=parameters)


class Region(NamedTuple):
    """Circle around a body in an image, px, and the detector's score."""

    image: NDArray[np.uint8]
    hip: Floats
    rim: Floats
    score: float
    from_tile: bool = False


class BlazePose:
    """The embedded model set. See `etl.models.base.ModelSet`.

    Confidence of a joint is the probability that it is inside the crop (presence) times the probability
    that nothing hides it (visibility).

    Parameters
    ----------
    cache : Path, optional
        Folder of the networks' files, instead of `etl.models.files.weights.cache_folder`.
    threads : int
        Of each network. Changes no value.
    parameters : Parameters, optional
        Settings.

    Raises
    ------
    ModelError
        When the files are absent, damaged or can't be loaded.
    """

    def __init__(self, cache: Path | None = None, *, threads: int = 1, parameters: Parameters | None = None) -> None:
        self.parameters = parameters or Parameters()
        self._detector = _Network(weights.path_of(DETECTOR_FILE, cache), decode.DETECTOR_SIZE, threads, 127.5, 1)
        self._landmarker = _Network(
            weights.path_of(LANDMARK_FILE, cache), decode.LANDMARK_SIZE, threads, 255, unused=_HEAT_MAPS
        )
        self._anchors = decode.anchors()

    @property
    def identity(self) -> dict[str, Any]:
        """See `etl.models.base.ModelSet.identity`."""
        return {
            "name": "embedded",
            "implementation": IMPLEMENTATION,
            "files": {name: weights.model_file(name).sha256 for name in (DETECTOR_FILE, LANDMARK_FILE)},
            "runtime": "litert",
            "precision": "fp32",
            "parameters": asdict(self.parameters),
        }

    @property
    def channels(self) -> tuple[int, int]:
        """No embeddings."""
        return 0, 0

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """People whom the detector proposes and the landmark network confirms, best first."""
        found = []
        for people in self._people([frame.image for frame in frames]):
            sides = [geometry.apply(p.back, _CROP_CORNERS) for p in people]
            boxes = [np.concatenate([s.min(0), s.max(0)]) for s in sides]
            found.append(
                Detections(
                    boxes=np.array(boxes, np.float32).reshape(-1, 4),
                    scores=np.array([p.score for p in people], np.float32),
                    own={"people": people},
                )
            )
        return found

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        """COCO joints, tight boxes, masks and world landmarks of what `detect` found, or of boxes from elsewhere."""
        poses = []
        for frame, found in zip(frames, detections, strict=True):
            people = found.own["people"] if "people" in found.own else self._in_boxes(frame.image, found)
            poses.append(to_poses(people, frame.image.shape[:2]))
        return poses

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        """Depth of the people, NaN elsewhere, under each frame's camera."""
        return [_depth(frame, found) for frame, found in zip(frames, poses, strict=True)]

    def embed(
        self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[NDArray[np.float32]]
    ) -> list[Embeddings]:
        """Return no embeddings: the set has none."""
        return [Embeddings() for _ in poses]

    def _people(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Person]]:
        """Confirmed people of each image, from the whole frame and, as the parameters say, from tiles."""
        sides = [float(max(image.shape[:2])) for image in images]
        whole = [
            [((image.shape[1] - side) / 2, (image.shape[0] - side) / 2, side)]
            for image, side in zip(images, sides, strict=True)
        ]
        found = self._confirm(images, whole, from_tile=False)
        return [self._in_tiles(image, people) for image, people in zip(images, found, strict=True)]

    def _in_tiles(self, image: NDArray[np.uint8], people: list[Person]) -> list[Person]:
        """Add the people that tiles of the image show to those of the whole frame."""
        p = self.parameters
        if p.tiles == "never":
            return people
        height, width = image.shape[:2]
        for tiles in decode.tile_levels(width, height, p.smallest, p.tile_ratio):
            if p.tiles == "auto" and any(person.landmarks.score >= p.sure_score for person in people):
                break
            (more,) = self._confirm([image], [tiles], from_tile=True)
            people = remove_duplicates([*people, *more], p.apart, p.inside)
        return people

    def _propose(self, places: Sequence[tuple[NDArray[np.uint8], Tile]]) -> list[decode.Candidates]:
        """The detector's candidates in squares of images, in px of the image.

        The network runs on all of them before any output is decoded: it fills the processor's caches, so that code
        which alternates with it is slow.
        """
        size, seen = decode.DETECTOR_SIZE, []
        for image, (x, y, side) in places:
            matrix = geometry.crop_matrix((x + (side - 1) / 2, y + (side - 1) / 2), (side, side), 0.0, (size, size))
            seen.append((matrix, self._detector(geometry.warp(image, matrix, (size, size), stride=_DETECTOR_STRIDE))))
        return [self._candidates(*answer) for answer in seen]

    def _candidates(self, matrix: Floats, out: Mapping[tuple[int, ...], NDArray[np.float32]]) -> decode.Candidates:
        raw, logits = out[1, 2254, 12][0], out[1, 2254, 1][0, :, 0]
        found = decode.decode(raw, logits, self._anchors, self.parameters.detector_score)
        found = decode.weighted_suppression(found, self.parameters.suppression)
        back = geometry.invert(matrix)
        corners = geometry.apply(back, found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        return decode.Candidates(
            geometry.apply(back, found.hips), geometry.apply(back, found.rims), corners, found.scores
        )

    def _confirm(
        self, images: Sequence[NDArray[np.uint8]], tiles: Sequence[Sequence[Tile]], *, from_tile: bool
    ) -> list[list[Person]]:
        """Find people in the tiles of each image: the detector proposes, the landmark network confirms; best first."""
        p = self.parameters
        proposed = iter(
            self._propose([(image, tile) for image, own in zip(images, tiles, strict=True) for tile in own])
        )
        asked: list[Region] = []
        counts = []
        for image, own in zip(images, tiles, strict=True):
            found = decode.join([next(proposed) for _ in own])
            found = found.take(decode.select_distinct(found.hips, found.radii, found.scores, p.apart))
            rows = zip(found.hips, found.rims, found.scores.tolist(), strict=True)
            asked += [Region(image, *row, from_tile) for row in rows]
            counts.append(len(found))
        looks = iter(self._landmarks_of(asked))
        people = [[person for _ in range(count) if (person := next(looks)) is not None] for count in counts]
        # Landmarks are more exact than proposals: duplicates are removed once more.
        return [remove_duplicates(each, p.apart, p.inside) for each in people]

    def _in_boxes(self, image: NDArray[np.uint8], found: Detections) -> list[Person]:
        """Find the people in given boxes, e.g. of the annotation; the landmark network runs twice.

        A box doesn't say how the body is rotated, so the landmarks of the first run give the region of the second.
        """
        people = []
        for box, score in zip(np.asarray(found.boxes, np.float64), found.scores.tolist(), strict=True):
            if not np.isfinite(box).all():
                continue
            (center,), (size,) = geometry.pad_boxes(box[None], 1.0)
            (first,) = self._landmarks_of([Region(image, center, center - np.array([0.0, size.max() / 2]), score)])
            second = first and self._landmarks_of([Region(image, first.hip, first.rim, score)])[0]
            people += [person for person in (second or first,) if person is not None]
        return people

    def _landmarks_of(self, regions: Sequence[Region]) -> list[Person | None]:
        """Run the landmark network on regions; None without a person. Decoded at the end, as in `_propose`."""
        size = decode.LANDMARK_SIZE
        seen: list[tuple[Floats, float, Mapping[tuple[int, ...], NDArray[np.float32]]] | None] = []
        for region in regions:
            center, side, rotation = decode.region(region.hip, region.rim, self.parameters.padding)
            if side < LEAST_REGION:
                seen.append(None)
                continue
            matrix = geometry.crop_matrix(center, (side, side), rotation, (size, size))
            crop = geometry.warp(region.image, matrix, (size, size), stride=_LANDMARK_STRIDE)
            seen.append((matrix, rotation, self._landmarker(crop)))
        return [answer and self._person(region, *answer) for region, answer in zip(regions, seen, strict=True)]

    def _person(
        self, region: Region, matrix: Floats, rotation: float, out: Mapping[tuple[int, ...], NDArray[np.float32]]
    ) -> Person | None:
        size = decode.LANDMARK_SIZE
        landmarks = decode.decode_landmarks(
            out[1, 195][0], out[1, 117][0], float(out[1, 1][0, 0]), out[1, size, size, 1][0, :, :, 0]
        )
        if landmarks.score < self.parameters.landmark_score:
            return None
        return Person(region.score * landmarks.score, matrix, rotation, landmarks, region.from_tile)


@contextlib.contextmanager
def _no_greeting() -> Iterator[None]:
    """Keep LiteRT's C++ from writing "Created TensorFlow Lite XNNPACK delegate" over the user's progress bar."""
    sys.stderr.flush()
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield  # what goes wrong meanwhile is raised as an exception, and shown
    finally:
        os.dup2(kept, 2)
        os.close(null)
        os.close(kept)


class _Network:
    """A LiteRT interpreter, which isn't safe in threads, behind a lock.

    Parameters
    ----------
    path : Path
        The network.
    size : int
        Side of its input, px.
    threads : int
        Of its operations.
    scale, offset : float
        The input is ``pixels / scale - offset``.
    unused : tuple of int
        Shape of an output that isn't used, and isn't copied.
    """

    def __init__(
        self, path: Path, size: int, threads: int, scale: float, offset: float = 0.0, unused: tuple[int, ...] = ()
    ) -> None:
        try:
            with _no_greeting():
                self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"LiteRT must be able to load {path.name}.", f"it fails ({error})", "Run `xycd models fetch`."
            ) from error
        (taken,) = self._interpreter.get_input_details()
        if tuple(taken["shape"]) != (1, size, size, 3):
            raise ModelError(
                f"{path.name} must take one RGB image of {size} px.",
                f"its input has the shape {taken['shape']}",
                "Run `xycd models fetch`.",
            )
        self._input = self._interpreter.tensor(taken["index"])
        shapes = {o["index"]: tuple(o["shape"].tolist()) for o in self._interpreter.get_output_details()}
        self._outputs = {index: shape for index, shape in shapes.items() if shape != unused}
        self._scale, self._offset = np.float32(scale), np.float32(offset)
        self._lock = threading.Lock()

    def __call__(self, pixels: NDArray[np.uint8]) -> dict[tuple[int, ...], NDArray[np.float32]]:
        """Outputs by their shapes, which differ, of one image (size, size, 3)."""
        with self._lock:
            # In place; LiteRT requires that the view is released before the network runs.
            values = self._input()[0]
            np.divide(pixels, self._scale, out=values, dtype=np.float32)
            if self._offset:
                values -= self._offset
            del values
            self._interpreter.invoke()
            return {shape: self._interpreter.get_tensor(index) for index, shape in self._outputs.items()}


_CROP_CORNERS: Final = np.array([(x, y) for x in (-0.5, 255.5) for y in (-0.5, 255.5)])


def _depth(frame: Frame, poses: Poses) -> depth.BodyDepth:
    """Depth of the people of one frame."""
    placing = list(depth.PLACING)
    joints = np.full((len(poses), 17), np.nan, np.float32)
    bodies = []
    for row in range(len(poses)):
        points = poses.own["landmarks"][row]
        # One call undistorts all points.
        plane = frame.camera.unproject(np.concatenate([points[placing], points[list(HIPS)].mean(0)[None]]))
        world = depth.from_line_of_sight(poses.own["world"][row], plane[-1])
        # A lower bound, so that a person who is mostly hidden gets a position too.
        trust = np.maximum(poses.own["confidence"][row][placing], 1e-3)
        translation = depth.solve_translation(plane[:-1], world[placing], trust)
        depths = world[:, 2] + translation[2]
        if not depth.median(depths) >= depth.NEAREST_M:
            continue  # at or behind the camera: no depth rather than a wrong one
        joints[row] = depth.joint_depths(depths)
        bodies.append(
            depth.Body(poses.own["mask"][row], poses.own["matrix"][row], points, depths, frame.camera.focal[0])
        )
    return depth.BodyDepth((frame.image.shape[0], frame.image.shape[1]), tuple(bodies), joints)
