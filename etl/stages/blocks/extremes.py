"""Depth at joints, and minimum and maximum of the discs around them, for many joints at once.

Discs differ in size. So their pixels are concatenated in one array, and NumPy reduces each part of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from etl.models.base import DepthField

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

_AT_ONCE: Final = 120_000  # pixels; their arrays fit into a processor's caches
_KEPT: Final = 1024  # cached discs; radii of up to 30 px have 900


class _Discs(NamedTuple):
    """Pixels of many discs; disc i has `pixels[starts[i] : starts[i] + sizes[i]]`, in row-major order."""

    pixels: Indices  # indices in the flattened depth map of the disc's frame
    starts: Indices
    sizes: Indices
    middles: Indices  # index of the centre in `pixels`


@lru_cache(maxsize=_KEPT)
def _disc(reach: int) -> tuple[Indices, Indices]:
    """Offsets dx and dy of the pixels whose squared distance from the centre is at most `reach`."""
    half = math.isqrt(reach)
    steps = np.arange(-half, half + 1)
    dy, dx = np.nonzero(steps[:, None] ** 2 + steps**2 <= reach)
    return dx - half, dy - half


class _Offsets(dict[int, Indices]):
    """By `reach`, the offsets of a disc's pixels from its centre in a flattened map `width` wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def __missing__(self, reach: int) -> Indices:
        if len(self) >= _KEPT:
            self.clear()
        dx, dy = _disc(reach)
        self[reach] = offsets = dy * self._width + dx
        return offsets


@lru_cache(maxsize=16)
def _offsets(width: int) -> _Offsets:
    return _Offsets(width)


def extremes(depths: Sequence[DepthField], centers: NDArray[np.int64], radii: NDArray[np.float64]) -> Floats:
    """Depth at the joints' pixels, and minimum and maximum of the finite pixels within a radius of each.

    If a joint's own pixel has no value, its depth is that of the nearest finite pixel of the disc, the first in
    row-major order of several.

    Parameters
    ----------
    depths : sequence of P DepthField
        One for each person; metres.
    centers : (P, J, 2) int64
        x, y of the joints' pixels, inside the image.
    radii : (P, J) float64
        px.

    Returns
    -------
    (3, P * J) float32
        Point, minimum, maximum; NaN where no pixel of the disc has a value.
    """
    # Groups of people are small enough for the processor's caches.
    if math.pi * np.vdot(radii, radii) <= _AT_ONCE:
        return _extremes(depths, centers, radii)
    group = (math.pi * radii * radii).sum(axis=1).cumsum() // _AT_ONCE
    ends = (np.flatnonzero(np.diff(group)) + 1).tolist()
    slices = [slice(first, end) for first, end in itertools.pairwise((0, *ends, len(depths)))]
    return np.concatenate([_extremes(depths[part], centers[part], radii[part]) for part in slices], axis=1)


def _extremes(depths: Sequence[DepthField], centers: NDArray[np.int64], radii: NDArray[np.float64]) -> Floats:
    joints = centers.shape[1]
    discs = _discs(centers, radii, np.array([depth.shape for depth in depths]))
    values = np.empty(len(discs.pixels), np.float32)
    begins = [*discs.starts[::joints].tolist(), len(values)]
    for depth, begin, end in zip(depths, begins, begins[1:], strict=False):
        values[begin:end] = depth.at(discs.pixels[begin:end])
    found = np.empty((3, len(discs.starts)), np.float32)
    found[0] = values[discs.middles]
    np.minimum.reduceat(values, discs.starts, out=found[1])
    np.maximum.reduceat(values, discs.starts, out=found[2])
    if np.isfinite(found).all():  # then all values are finite: NaN would show in both extremes, infinity in one
        return found
    finite = np.isfinite(values)
    np.minimum.reduceat(np.where(finite, values, np.float32(np.inf)), discs.starts, out=found[1])
    np.maximum.reduceat(np.where(finite, values, np.float32(-np.inf)), discs.starts, out=found[2])
    found[:, np.isinf(found[1])] = np.nan
    for row in np.flatnonzero(~finite[discs.middles] & np.isfinite(found[1])):
        person, pixels = row // joints, slice(discs.starts[row], discs.starts[row] + discs.sizes[row])
        found[0, row] = _nearest(values[pixels], discs.pixels[pixels], centers[person, row % joints], depths[person])
    return found


def _nearest(values: Floats, pixels: Indices, center: NDArray[np.int64], depth: DepthField) -> np.float32:
    """The finite value of `values` (M,) whose pixel (M,) is nearest to `center` (2,)."""
    y, x = np.divmod(pixels, depth.shape[1])
    distance2 = (x - center[0]) ** 2 + (y - center[1]) ** 2
    return np.float32(values[np.where(np.isfinite(values), distance2, np.iinfo(np.int64).max).argmin()])


def _discs(centers: NDArray[np.int64], radii: NDArray[np.float64], shapes: NDArray[np.int64]) -> _Discs:
    """Discs around `centers` (P, J, 2), cut to the images of `shapes` (P, 2)."""
    joints = radii.shape[1]
    # Squared distances between pixel centres are whole numbers, so the squared radius can be floored.
    reaches = (radii * radii).astype(np.int64).tolist()
    parts = []
    for width, own in zip(shapes[:, 1].tolist(), reaches, strict=True):
        offsets = _offsets(width)
        parts += [offsets[reach] for reach in own]
    sizes = np.fromiter(map(len, parts), np.intp, len(parts))
    middles = sizes // 2  # a disc is symmetric about its centre
    last = shapes[:, None, ::-1] - 1
    space = np.minimum(centers, last - centers).min(axis=-1)  # to the nearest edge
    for row in np.flatnonzero(space < radii).tolist():
        dx, dy = _disc(reaches[row // joints][row % joints])
        (x, y), (right, bottom) = centers.reshape(-1, 2)[row], last[row // joints, 0]
        inside = (x + dx >= 0) & (x + dx <= right) & (y + dy >= 0) & (y + dy <= bottom)
        middles[row] = inside[: middles[row]].sum()
        parts[row] = parts[row][inside]
        sizes[row] = len(parts[row])
    pixels = np.concatenate(parts)
    pixels += np.repeat(centers[..., 1] * shapes[:, 1:] + centers[..., 0], sizes)
    starts = np.cumsum(sizes) - sizes
    return _Discs(pixels, starts, sizes, starts + middles)
