"""People that BlazePose's landmark network has confirmed: removal of duplicates, and poses in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from etl.models import geometry
from etl.models.base import Poses
from etl.models.embedded import depth
from etl.models.embedded.decode import LANDMARKS, TO_COCO, Landmarks, select_distinct, turn

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """A person, seen in a crop.

    Parameters
    ----------
    score : float
        The detector's times the landmark network's, in [0, 1].
    matrix : (3, 3) float64
        From image to crop.
    rotation : float
        Of the crop's region in the image, radians, clockwise on the screen.
    landmarks : Landmarks
        In the crop.
    from_tile : bool
        Found in a tile rather than the whole frame.
    """

    score: float
    matrix: Floats
    rotation: float
    landmarks: Landmarks
    from_tile: bool = False

    @cached_property
    def back(self) -> Floats:
        """Map (3, 3) from crop to image."""
        return geometry.invert(self.matrix)

    @cached_property
    def hip(self) -> Floats:
        """Middle of the hips (2,), px of the image."""
        return geometry.apply(self.back, self.landmarks.hip)

    @cached_property
    def rim(self) -> Floats:
        """Point (2,) on the circle around the body, above the head, px of the image."""
        return geometry.apply(self.back, self.landmarks.rim)

    @cached_property
    def points(self) -> Floats:
        """Landmarks (33, 2), px of the image."""
        return geometry.apply(self.back, self.landmarks.points)

    @cached_property
    def own(self) -> NDArray[np.bool_]:
        """Pixels (256, 256) of the crop that hang together with the body."""
        return depth.own_component(self.landmarks.mask, self.landmarks.points)

    @property
    def own_mask(self) -> NDArray[np.float32]:
        """Logits (256, 256) in the crop, without what belongs to somebody else."""
        mask = self.landmarks.mask
        others = (mask > 0) & ~self.own
        return np.where(others, np.float32(depth.NOBODY), mask) if others.any() else mask

    @cached_property
    def box(self) -> Floats:
        """Tight box x1, y1, x2, y2 (4,) px of the image, around the mask and the landmarks inside the crop."""
        present = self.landmarks.presence > 0.5
        marks = self.points[present] if present.any() else self.points
        box = np.concatenate([marks.min(0), marks.max(0)])
        seen = depth.mask_box(self.own, self.back)
        if seen is None:
            return box
        return np.concatenate([np.minimum(box[:2], seen[:2]), np.maximum(box[2:], seen[2:])])


def remove_duplicates(people: Sequence[Person], apart: float, inside: float) -> list[Person]:
    """Remove people who are found twice; best first.

    Parameters
    ----------
    people : sequence of Person
        Any order.
    apart : float
        Distance of the hips, relative to the body's circle, below which two count as one person.
    inside : float
        A tile may cut a body, and its parts look like people. Of two people, one of them from a tile, the one with
        the lower score is removed if more than this share of the smaller box is inside the larger.
    """
    if len(people) < 2:
        return list(people)
    hips, rims = np.array([p.hip for p in people]), np.array([p.rim for p in people])
    scores = np.array([p.score for p in people])
    kept: list[Person] = []
    for row in select_distinct(hips, np.linalg.norm(rims - hips, axis=1), scores, apart):
        new = people[row]
        if not any((new.from_tile or old.from_tile) and _share(new.box, old.box) > inside for old in kept):
            kept.append(new)
    return kept


def poses(people: Sequence[Person], shape: Sequence[int]) -> Poses:
    """Return the poses of people in an image of `shape` (height, width); see `embedded.model_set.BlazePose`."""
    count, coco = len(people), list(TO_COCO)
    points = np.array([p.points for p in people]).reshape(count, LANDMARKS, 2)
    marks = [p.landmarks for p in people]
    confidence = np.array([m.visibility * m.presence for m in marks]).reshape(count, LANDMARKS)
    world = np.array([turn(m.world, p.rotation) for m, p in zip(marks, people, strict=True)])
    limit = np.array([shape[1], shape[0]]) - 0.5
    boxes = np.array([p.box for p in people]).reshape(count, 2, 2).clip(-0.5, limit)
    return Poses(
        keypoints=points[:, coco].astype(np.float32),
        scores=confidence[:, coco].astype(np.float32),
        boxes=boxes.reshape(count, 4).astype(np.float32),
        box_scores=np.array([p.score for p in people], np.float32),
        own={
            "landmarks": points,  # (P, 33, 2) px
            "confidence": confidence,  # (P, 33)
            "world": world.reshape(count, LANDMARKS, 3),  # metres from the hips, z along the line of sight
            "matrix": np.array([p.matrix for p in people]).reshape(count, 3, 3),  # from image to crop
            # (256, 256) logits, in the crop, without the pixels of other people
            "mask": [p.own_mask for p in people],
        },
    )


def _share(first: Floats, second: Floats) -> float:
    """Share of the smaller of two boxes (4,) that lies in the other."""
    sides = (np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])).clip(min=0)
    area = min((b[2:] - b[:2]).prod() for b in (first, second))
    return float(sides.prod() / max(area, 1e-9))
