"""Detections and annotations of one sequence side by side, and the annotation at any moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.skeletons import LIMB_JOINTS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Track:
    """Detections and annotations of one sequence, row by row.

    Parameters
    ----------
    frame, person : (N,) int64
        Of each row; sorted by person, then by frame.
    annotated : (N, 17, 2) float64
        px, H36M_17; NaN where the release calls the row unusable.
    detected : (N, 17, 2) float64
        px, H36M_17; NaN where nothing was detected.
    true_depth, detected_depth : (N, 17) float64
        Metres from the camera's plane.
    """

    frame: Ints
    person: Ints
    annotated: Floats
    detected: Floats
    true_depth: Floats
    detected_depth: Floats

    @property
    def size(self) -> Floats:
        """(N,) px: longer side of the tight box of the annotated joints."""
        low = np.where(np.isnan(self.annotated), np.inf, self.annotated).min(1)
        high = np.where(np.isnan(self.annotated), -np.inf, self.annotated).max(1)
        side = (high - low).max(1)
        return np.where(np.isfinite(side) & (side > 0), side, np.nan)


def sample(track: Track, person: Ints, moment: Floats) -> Floats:
    """Annotated joints (M, 17, 2) px of people (M,) at moments (M,) in frames, linear between neighbouring rows.

    NaN before the first row, after the last, and where neighbours are farther apart than twice the usual step.
    """
    result = np.full((len(moment), 17, 2), np.nan)
    step = step_of(track)
    for who in np.unique(person):
        own, wanted = np.flatnonzero(track.person == who), np.flatnonzero(person == who)
        if not len(own):
            continue
        frames, at = track.frame[own], moment[wanted]
        right = np.clip(np.searchsorted(frames, at), 0, len(own) - 1)
        left = np.where(frames[right] == at, right, np.maximum(right - 1, 0))
        gap = frames[right] - frames[left]
        weight = np.where(gap > 0, (at - frames[left]) / np.maximum(gap, 1), 0.0)[:, None, None]
        values = (1 - weight) * track.annotated[own[left]] + weight * track.annotated[own[right]]
        inside = (at >= frames[0]) & (at <= frames[-1]) & (gap <= 2 * step)
        result[wanted] = np.where(inside[:, None, None], values, np.nan)
    return result


def step_of(track: Track) -> int:
    """Usual distance of neighbouring rows, in frames."""
    gaps = np.diff(track.frame)[np.diff(track.person) == 0]
    return max(int(np.median(gaps)), 1) if len(gaps) else 1


def rows_to_judge(track: Track, most: int) -> Ints:
    """Rows (M,) with a detection and a usable annotation, at most `most`, evenly spaced."""
    good = np.isfinite(track.detected[:, LIMB_JOINTS]).all((1, 2)) & np.isfinite(track.annotated).any((1, 2))
    rows = np.flatnonzero(good & np.isfinite(track.size))
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
    return rows


def relative_errors(detected: Floats, annotated: Floats, size: Floats) -> Floats:
    """(M, J) distance of joints (M, J, 2) px as a fraction of the person's size."""
    return np.asarray(np.linalg.norm(detected - annotated, axis=-1) / size, np.float64)


def steady(detected: Floats, annotated: Floats) -> Floats:
    """Detections without the constant offset of each joint from `annotated`, the median over the rows."""
    offset = np.sort(detected - annotated, axis=0)  # NaN come last; np.nanmedian takes ten times as long
    count = np.isfinite(offset).sum(0)[None]
    lower, upper = (np.take_along_axis(offset, np.maximum(place, 0), 0) for place in ((count - 1) // 2, count // 2))
    return detected - np.where(count > 0, (lower + upper) / 2, 0.0)[0]
