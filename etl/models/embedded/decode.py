"""From the tensors of the BlazePose networks to people: anchors, suppression, regions, landmarks, tiles.

Pure functions on arrays. Coordinates of the networks' inputs are 0-based with the centre of the top-left
pixel at (0, 0), as everywhere. The networks count from the top-left corner of that pixel, so half a pixel
is subtracted here.

Sources: MediaPipe's pose_detection and pose_landmark graphs (SSD anchors, TensorsToDetections,
AlignmentPointsRectsCalculator, RectTransformation) and "BlazePose GHUM Holistic" (Grishchenko et al., 2022).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]

DETECTOR_SIZE: Final = 224
LANDMARK_SIZE: Final = 256
LANDMARKS: Final = 33  # of 39; the rest are two alignment points and four of the hands
STRIDES: Final = (8, 16, 32, 32, 32)

# COCO_17 joint <- BlazePose landmark.
TO_COCO: Final = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


@dataclass(frozen=True)
class Candidates:
    """People that the detector proposes, best first.

    Parameters
    ----------
    hips : (K, 2) float64
        Middle of the hips, px.
    rims : (K, 2) float64
        Point on the circle around `hips` that holds the whole body, above the head, px.
    boxes : (K, 4) float64
        x1, y1, x2, y2 of the detector's own box, around the face, px. Its side hardly varies.
    scores : (K,) float64
        In [0, 1].
    """

    hips: Floats
    rims: Floats
    boxes: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def radii(self) -> Floats:
        """Radius (K,) of the circle around the body, px."""
        return np.asarray(np.linalg.norm(self.rims - self.hips, axis=-1), np.float64)

    def take(self, rows: NDArray[np.intp]) -> Candidates:
        """Return the candidates `rows`, in that order."""
        return Candidates(self.hips[rows], self.rims[rows], self.boxes[rows], self.scores[rows])


def join(parts: list[Candidates]) -> Candidates:
    """Join the candidates of several inputs."""
    return Candidates(
        np.concatenate([p.hips for p in parts]).reshape(-1, 2),
        np.concatenate([p.rims for p in parts]).reshape(-1, 2),
        np.concatenate([p.boxes for p in parts]).reshape(-1, 4),
        np.concatenate([p.scores for p in parts]),
    )


def anchors() -> Floats:
    """Return the centres (2254, 2) of the detector's anchors, relative to its input: two per cell and layer."""
    layers = []
    for stride, group in itertools.groupby(STRIDES):
        cells = math.ceil(DETECTOR_SIZE / stride)
        centers = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(centers, centers), axis=-1).reshape(-1, 2)
        layers.append(np.repeat(grid, 2 * len(list(group)), axis=0))
    return np.concatenate(layers)


def decode(raw: NDArray[np.floating], logits: NDArray[np.floating], centers: Floats, threshold: float) -> Candidates:
    """Decode candidates above `threshold`, before suppression, in px of the detector's input.

    Parameters
    ----------
    raw : (2254, 12) float
        cx, cy, w, h and four points, in px relative to the anchors.
    logits : (2254,) float
        Scores before the sigmoid.
    centers : (2254, 2) float
        From `anchors`.
    threshold : float
        Least score.
    """
    # Few anchors see a person; the others are dropped first.
    floor = math.log(threshold / (1 - threshold)) - 1 if 0 < threshold < 1 else -math.inf
    (rows,) = np.nonzero(np.asarray(logits) > floor)
    scores = expit(np.clip(np.asarray(logits[rows], np.float64), -100, 100))
    kept = scores >= threshold
    rows, scores = rows[kept], scores[kept]
    # A stable sort, so that the order of equal scores doesn't depend on the machine.
    order = np.argsort(-scores, kind="stable")
    rows, scores = rows[order], scores[order]
    raw = np.asarray(raw[rows], np.float64)
    places = raw.reshape(-1, 6, 2) + centers[rows, None] * DETECTOR_SIZE - 0.5
    half = raw[:, 2:4] / 2
    boxes = np.concatenate([places[:, 0] - half, places[:, 0] + half], axis=1)
    return Candidates(places[:, 2], places[:, 3], boxes, scores)


def overlaps(boxes: Floats) -> Floats:
    """Compute the intersection over union (K, K) of boxes (K, 4)."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return np.asarray(shared / np.maximum(area[:, None] + area - shared, 1e-9), np.float64)


def weighted_suppression(found: Candidates, threshold: float) -> Candidates:
    """Replace each group of overlapping candidates by its mean, weighted by score.

    This is MediaPipe's NonMaxSuppressionCalculator with algorithm WEIGHTED. A group keeps its best score.

    Parameters
    ----------
    found : Candidates
        Sorted by score, best first.
    threshold : float
        Overlap (intersection over union) above which two boxes are of one group.
    """
    overlap = overlaps(found.boxes)
    left = np.ones(len(found), bool)
    hips, rims, boxes, scores = [], [], [], []
    for best in range(len(found)):
        if not left[best]:
            continue
        group = left & (overlap[best] > threshold)
        group[best] = True
        left &= ~group
        weights = found.scores[group, None] / found.scores[group].sum()
        hips.append((found.hips[group] * weights).sum(0))
        rims.append((found.rims[group] * weights).sum(0))
        boxes.append((found.boxes[group] * weights).sum(0))
        scores.append(found.scores[best])
    return Candidates(
        np.array(hips).reshape(-1, 2), np.array(rims).reshape(-1, 2), np.array(boxes).reshape(-1, 4), np.array(scores)
    )


def select_distinct(hips: Floats, radii: Floats, scores: Floats, fraction: float) -> NDArray[np.intp]:
    """Select one row per person, best first: hips at least `fraction` of a radius away from any better one.

    Parameters
    ----------
    hips : (K, 2) float
        Middle of the hips, px.
    radii : (K,) float
        Radius of the circle around the body, px.
    scores : (K,) float
        The best of one person is kept.
    fraction : float
        Of the larger radius of the two.
    """
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable").tolist():
        distance = np.linalg.norm(hips[kept] - hips[row], axis=1)
        if (distance >= fraction * np.maximum(radii[kept], radii[row])).all():
            kept.append(row)
    return np.array(kept, np.intp)


def region(hip: Floats, rim: Floats, padding: float) -> tuple[Floats, float, float]:
    """Compute the square region of interest around a body.

    Parameters
    ----------
    hip, rim : (2,) float
        Middle of the hips, and the point on the circle around the body, px.
    padding : float
        Factor on the side; MediaPipe's is 1.25.

    Returns
    -------
    center : (2,) float64
        px.
    side : float
        px.
    rotation : float
        Radians, clockwise on the screen, that make the body upright, in [-pi, pi).
    """
    dx, dy = (rim - hip).tolist()
    rotation = math.pi / 2 - math.atan2(-dy, dx)
    rotation -= 2 * math.pi * math.floor((rotation + math.pi) / (2 * math.pi))
    return hip, 2 * math.hypot(dx, dy) * padding, rotation


@dataclass(frozen=True)
class Landmarks:
    """Output of the landmark network for one crop.

    Parameters
    ----------
    points : (33, 2) float64
        px of the crop.
    visibility, presence : (33,) float64
        Probability that the point isn't hidden, and that it is inside the crop.
    world : (33, 3) float64
        Metres from the middle of the hips; axes of the crop, z away from the camera.
    hip, rim : (2,) float64
        Alignment points, px of the crop: as the detector's.
    score : float
        Probability that there is a person.
    mask : (256, 256) float32
        Logits of the person's pixels.
    """

    points: Floats
    visibility: Floats
    presence: Floats
    world: Floats
    hip: Floats
    rim: Floats
    score: float
    mask: NDArray[np.float32]


def decode_landmarks(
    raw: NDArray[np.floating], world: NDArray[np.floating], score: float, mask: NDArray[np.float32]
) -> Landmarks:
    """Decode the landmark network's outputs: raw (195,), world (117,), score, mask (256, 256)."""
    table = np.asarray(raw, np.float64).reshape(39, 5)
    points = table[:, :2] - 0.5
    return Landmarks(
        points=points[:LANDMARKS],
        visibility=expit(table[:LANDMARKS, 3]),
        presence=expit(table[:LANDMARKS, 4]),
        world=np.asarray(world, np.float64).reshape(39, 3)[:LANDMARKS],
        hip=points[33],
        rim=points[34],
        score=float(score),
        mask=mask,
    )


def turn(world: Floats, rotation: float) -> Floats:
    """Rotate world landmarks (..., 3) from the axes of a crop, turned by `rotation` radians, to the image's axes."""
    c, s = math.cos(rotation), math.sin(rotation)
    return world @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


@functools.lru_cache(maxsize=64)
def tile_levels(width: int, height: int, smallest: float, ratio: float) -> list[list[tuple[float, float, float]]]:
    """Compute square tiles as x, y (top-left corner) and side in px, from the largest to the smallest.

    Each level about halves the side, down to `ratio` times the `smallest` person. The tiles of a level
    overlap by at least half and cover the image.

    Parameters
    ----------
    width, height : int
        Of the image, px.
    smallest : float
        Height in px of the smallest person to be found.
    ratio : float
        Side of a tile, in heights of the person that it is meant for.
    """
    longer, least = max(width, height), smallest * ratio
    if longer <= least:
        return []
    count = max(1, round(math.log2(longer / least)))
    levels = []
    for level in range(1, count + 1):
        side = longer * (least / longer) ** (level / count)
        starts = []
        for length in (width, height):
            steps = max(0, math.ceil((length - side) / (side / 2) - 1e-9))
            starts.append(np.linspace(0, length - side, steps + 1) if steps else np.array([(length - side) / 2]))
        levels.append([(float(x), float(y), side) for y in starts[1] for x in starts[0]])
    return levels
