"""Choose, among the people found in a frame, those that the dataset annotates."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from etl.models.base import Poses

Floats = NDArray[np.floating]
Rule = Literal["keypoint_score", "largest_box", "box_score"]

MARGIN: Final = 150  # px around an annotated person's joints, as in the published 3DPW scripts


def choose_person(poses: Poses, rule: Rule = "keypoint_score") -> int | None:
    """Row of the annotated person in a frame with one annotated person.

    Parameters
    ----------
    poses : Poses
        Every candidate.
    rule : {"keypoint_score", "largest_box", "box_score"}
        Highest mean of the 17 keypoint scores, as in the published scripts; largest box; or highest detection score.
        The first of several equals is chosen; NaN never is.

    Returns
    -------
    int or None
        None if there is nobody.
    """
    if not len(poses):
        return None
    if rule == "keypoint_score":
        merit = poses.scores.mean(axis=1, dtype=np.float64)
    elif rule == "largest_box":
        merit = _areas(np.asarray(poses.boxes, np.float64))
    else:
        merit = np.asarray(poses.box_scores, np.float64)
    return int(np.argmax(np.where(np.isnan(merit), -np.inf, merit)))


def associate(poses: Poses, boxes: Floats, min_iou: float = 0.3) -> NDArray[np.intp]:
    """Match the people found to annotated people, one to one, so that the sum of overlaps is greatest.

    Compared are tight boxes around joints, of annotations and candidates alike.

    Parameters
    ----------
    poses : Poses
        Every candidate.
    boxes : (P, 4) float
        Tight boxes x1, y1, x2, y2 px of the annotated people; a box with NaN is matched to nobody.
    min_iou : float
        Pairs that overlap less are no match, and don't influence the others.

    Returns
    -------
    (P,) intp
        Row in `poses` of each annotated person; -1 for none.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and few runs match people

    overlaps = iou(np.asarray(boxes, np.float64).reshape(-1, 4), box_of_keypoints(poses.keypoints))
    overlaps[overlaps < max(min_iou, np.finfo(np.float64).tiny)] = 0
    rows = np.full(len(overlaps), -1, np.intp)
    annotated, candidates = linear_sum_assignment(overlaps, maximize=True)
    matched = overlaps[annotated, candidates] > 0
    rows[annotated[matched]] = candidates[matched]
    return rows


def box_of_keypoints(keypoints: Floats) -> NDArray[np.float64]:
    """Tight box x1, y1, x2, y2 (..., 4) px of joints (..., J, 2) px, without joints of NaN; NaN if none is left."""
    finite = np.isfinite(keypoints).all(axis=-1, keepdims=True)
    low = np.where(finite, keypoints, np.inf).min(axis=-2)
    high = np.where(finite, keypoints, -np.inf).max(axis=-2)
    box = np.concatenate([low, high], axis=-1).astype(np.float64)
    return np.where(np.isfinite(box), box, np.nan)


def published_boxes(boxes: Floats, width: int, height: int) -> NDArray[np.float32]:
    """Boxes in which the published 3DPW scripts look for annotated people; a pose network adds its own margin.

    Minimum and maximum of the joints' coordinates, truncated to integers, with MARGIN px on each side, clipped to
    [0, width - 1] x [0, height - 1]. Tight boxes suffice, because truncation keeps the order of numbers.

    Parameters
    ----------
    boxes : (P, 4) float
        Tight boxes x1, y1, x2, y2 of the annotated joints, px; NaN where they are unknown.
    width, height : int
        Of the image, px.

    Returns
    -------
    (P, 4) float32
        px; NaN where joints are unknown, or more than MARGIN outside the image.
    """
    whole = np.trunc(np.asarray(boxes, np.float64).reshape(-1, 4)) + np.array([-1, -1, 1, 1]) * MARGIN
    clipped = whole.clip(0, np.array([width, height, width, height]) - 1.0)
    has_area = (clipped[:, 2:] > clipped[:, :2]).all(axis=1, keepdims=True)  # False for NaN
    return np.where(has_area, clipped, np.nan).astype(np.float32)


def iou(first: Floats, second: Floats) -> NDArray[np.float64]:
    """Intersection over union (A, B) of boxes (A, 4) and (B, 4), x1 y1 x2 y2; 0 where a box is empty or NaN."""
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(min=0).prod(axis=-1)
    union = _areas(a) + _areas(b) - common
    positive = common > 0  # False for NaN
    return np.divide(common, union, out=np.zeros(positive.shape), where=positive)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[..., 2:] - boxes[..., :2]).clip(min=0).prod(axis=-1)
