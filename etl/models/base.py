"""The interface of a model set: a detector, a pose estimator and a depth estimator that run together.

A model set is built once per worker process and called with batches of frames:

    detections = models.detect(frames)
    poses = models.estimate_poses(frames, detections)     # every candidate person
    poses = choose(poses)                                 # etl.stages.blocks.people
    depths = models.estimate_depth(frames, poses)         # once a frame, however many people
    embeddings = models.embed(poses, depths, joints)      # if the set has embeddings
    maps = models.pool_maps(poses, depths, sizes)         # if they are to be kept: a `MapSource` only

Boxes and keypoints are in full-image pixels, 0-based, centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas.camera import Camera
from schemas.keys import SequenceKey

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Parameters
    ----------
    key : SequenceKey
        The sequence that it belongs to.
    number : int
        0-based position in the sequence's media.
    image : (H, W, 3) uint8
        RGB.
    camera : Camera
        The dataset's, or one assumed from a field of view where unknown.
    own : dict
        What the set keeps with the frame for its later blocks (the image on the device).
    """

    key: SequenceKey
    number: int
    image: NDArray[np.uint8]
    camera: Camera
    own: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Detections:
    """Person boxes of one frame, best first.

    Parameters
    ----------
    boxes : (P, 4) float32
        x1, y1, x2, y2 in px.
    scores : (P,) float32
        Detection scores in [0, 1].
    own : mapping of str to array
        What the set's own pose estimator needs besides, each with P rows (a rotated region, say).
    """

    boxes: Floats
    scores: Floats
    own: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Poses:
    """Poses of the people in one frame.

    Parameters
    ----------
    keypoints : (P, 17, 2) float32
        COCO_17 joints in px.
    scores : (P, 17) float32
        Confidence of each keypoint, as the network gives it.
    boxes : (P, 4) float32
        x1, y1, x2, y2 in px.
    box_scores : (P,) float32
        Detection scores.
    own : mapping of str to array or list
        What the set's later blocks need (mask, world landmarks, backbone features), each with P entries.
    """

    keypoints: Floats
    scores: Floats
    boxes: Floats
    box_scores: Floats
    own: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keypoints)

    def take(self, rows: Sequence[int]) -> Poses:
        """The people `rows`, in that order."""
        index = np.asarray(rows, np.intp)
        own = {
            name: [values[i] for i in index] if isinstance(values, list) else values[index]
            for name, values in self.own.items()
        }
        return Poses(self.keypoints[index], self.scores[index], self.boxes[index], self.box_scores[index], own)

    @classmethod
    def join(cls, parts: Sequence[Poses]) -> Poses:
        """The people of all `parts`, which are of one frame and one model set, in that order."""
        people = [part for part in parts if len(part)]
        if len(people) < 2:
            return people[0] if people else cls.nobody()
        own: dict[str, Any] = {}
        for name, first in people[0].own.items():
            each = [part.own[name] for part in people]
            own[name] = (
                [value for values in each for value in values] if isinstance(first, list) else np.concatenate(each)
            )
        return cls(
            np.concatenate([part.keypoints for part in people]),
            np.concatenate([part.scores for part in people]),
            np.concatenate([part.boxes for part in people]),
            np.concatenate([part.box_scores for part in people]),
            own,
        )

    @classmethod
    def nobody(cls) -> Poses:
        """No people."""
        empty = np.zeros(0, np.float32)
        return cls(empty.reshape(0, 17, 2), empty.reshape(0, 17), empty.reshape(0, 4), empty)


class DepthField(Protocol):
    """Metric depth of one frame, wherever it lives (host array, device tensor)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image that it covers."""
        ...

    @property
    def joint_depth(self) -> Floats | None:
        """(P, 17) metres: the estimator's own depth of each H36M_17 joint, or None if it has none."""
        ...

    def windows(self, centers: NDArray[np.integer], radius: int) -> Floats:
        """Square windows around pixels.

        Parameters
        ----------
        centers : (P, J, 2) int
            x, y of the central pixels, inside the image.
        radius : int
            Half width; windows are 2 * radius + 1 wide.

        Returns
        -------
        (P, J, 2 * radius + 1, 2 * radius + 1) float32
            Metres; NaN outside the image and where the map has no value.
        """
        ...

    def at(self, pixels: NDArray[np.intp]) -> Floats:
        """Depth of single pixels.

        Parameters
        ----------
        pixels : (N,) int
            Indices into the flattened map: y * W + x, inside the image.

        Returns
        -------
        (N,) float32
            Metres; NaN where the map has no value.
        """
        ...

    def to_array(self) -> Floats:
        """The whole map (H, W) float32 in metres, NaN where it has no value."""
        ...


@runtime_checkable
class DeviceDepth(Protocol):
    """A `DepthField` on a device, whose parts are copied to the host for many frames at a time."""

    @staticmethod
    def copy_parts(depths: Sequence[Any], parts: Sequence[tuple[slice, slice]]) -> list[DepthField]:
        """Copy a part (rows, columns) of each map to the host, with one wait for the device."""
        ...


@dataclass(frozen=True)
class ArrayDepth:
    """A depth map in host memory.

    Parameters
    ----------
    values : (H, W) float32
        Metres; NaN where there is no value.
    joint_depth : (P, 17) float32, optional
        The estimator's own depth of each H36M_17 joint.
    """

    values: Floats
    joint_depth: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]

    def windows(self, centers: NDArray[np.integer], radius: int) -> Floats:
        """See `DepthField.windows`."""
        side = 2 * radius + 1
        found = np.full((*centers.shape[:-1], side, side), np.nan, np.float32)
        # Copies of slices are twice as fast as one gather.
        for window, (x, y) in zip(found.reshape(-1, side, side), centers.reshape(-1, 2).tolist(), strict=True):
            top, left = max(radius - y, 0), max(radius - x, 0)
            bottom, right = max(y + radius + 1, 0), max(x + radius + 1, 0)
            part = self.values[max(y - radius, 0) : bottom, max(x - radius, 0) : right]
            if part.size:  # not where the window lies outside the map
                window[top : top + part.shape[0], left : left + part.shape[1]] = part
        return found

    def at(self, pixels: NDArray[np.intp]) -> Floats:
        """See `DepthField.at`."""
        # "wrap" wraps nothing of what lies inside, and takes three quarters of the time of a check.
        return self.values.reshape(-1).take(pixels, mode="wrap")

    def to_array(self) -> Floats:
        """The map itself."""
        return self.values


@dataclass(frozen=True)
class PartialDepth:
    """A part of a depth map in host memory; only pixels of the part may be read.

    Parameters
    ----------
    values : (h, w) float32
        Metres.
    left, top : int
        Column and row of the image at which the part starts.
    shape : (int, int)
        Height and width of the image.
    """

    values: Floats
    left: int
    top: int
    shape: tuple[int, int]
    joint_depth: None = None

    def windows(self, centers: NDArray[np.integer], radius: int) -> Floats:
        """See `DepthField.windows`."""
        return ArrayDepth(self.values).windows(centers - np.array([self.left, self.top]), radius)

    def at(self, pixels: NDArray[np.intp]) -> Floats:
        """See `DepthField.at`."""
        rows, columns = np.divmod(pixels, self.shape[1])
        return ArrayDepth(self.values).at((rows - self.top) * self.values.shape[1] + columns - self.left)

    def to_array(self) -> Floats:
        """The whole map; NaN outside the part."""
        whole = np.full(self.shape, np.nan, np.float32)
        height, width = self.values.shape
        whole[self.top : self.top + height, self.left : self.left + width] = self.values
        return whole


@dataclass(frozen=True)
class Embeddings:
    """Features of the networks at the joints of the people in one frame.

    Parameters
    ----------
    pose : (P, 17, Cp) float16, optional
        From the pose network.
    depth : (P, 17, Cd) float16, optional
        From the depth network.
    grids : mapping of str to (int, int)
        Columns and rows of the maps that they were read from, by stream: ``pose`` and ``depth``.
    """

    pose: NDArray[np.float16] | None = None
    depth: NDArray[np.float16] | None = None
    grids: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class PooledMap:
    """The feature map of one network for the people in one frame, averaged over a coarser grid of cells.

    Parameters
    ----------
    values : (P, C, rows, columns) float16
        One a person; of a map of the whole image, the same for all.
    px_to_cell : (P, 3, 3) float64
        Map from full-image px to cells of the coarser grid, whose first has its centre at (0, 0).
    grid : (int, int)
        Columns and rows of the network's own map.
    """

    values: NDArray[np.float16]
    px_to_cell: NDArray[np.float64]
    grid: tuple[int, int]


@runtime_checkable
class MapSource(Protocol):
    """A model set whose feature maps can be kept; a stream is ``pose`` or ``depth``."""

    @property
    def map_layers(self) -> Mapping[str, str]:
        """Where in its network the map of each stream is taken, in words."""
        ...

    def pool_maps(
        self, poses: Sequence[Poses], depths: Sequence[DepthField], sizes: Mapping[str, tuple[int, int]]
    ) -> list[Mapping[str, PooledMap]]:
        """Maps of each stream, averaged over the columns and rows of `sizes`; see `etl.models.auglift.pooling`."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A model set that may compute elsewhere than on the processor."""

    @property
    def on_device(self) -> bool:
        """Whether any network computes on a GPU.

        If so, several threads call the set with a batch each, so that one batch is prepared and another is read while
        the GPU works on a third.
        """
        ...

    def device_works(self) -> bool:
        """Whether the GPU still answers, asked after an error: some faults end all its work in this process."""
        ...


@dataclass(frozen=True)
class Description:
    """What whoever plans a run must know of a set, for which it needn't be built.

    Parameters
    ----------
    identity : dict
        As `ModelSet.identity`.
    channels : (int, int)
        As `ModelSet.channels`.
    """

    identity: dict[str, Any]
    channels: tuple[int, int]


class ModelSet(Protocol):
    """A detector, a pose estimator and a depth estimator. All methods take and return one entry a frame."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-ready: names, SHA-256 of every file, runtime, precision, and every parameter that can change a value.

        It enters the stage key, so it must not depend on the machine, its device names or its thread counts.
        """
        ...

    @property
    def channels(self) -> tuple[int, int]:
        """Width of the pose and of the depth embeddings; 0 where the set has none."""
        ...

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find people."""
        ...

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        """Estimate the pose of every detected person; people whom the estimator rejects are left out."""
        ...

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        """Estimate depth, once a frame, for the chosen people."""
        ...

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Floats]) -> list[Embeddings]:
        """Sample the networks' features at the H36M_17 `joints` (P, 17, 2) px of each frame."""
        ...
