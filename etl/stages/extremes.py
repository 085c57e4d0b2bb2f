"""Depth at joints, and the least and greatest around them: exactly the pixels of each disc, for many joints at once.

Discs differ in size, so their pixels stand one disc after the other in one array, and NumPy reduces its pieces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from etl.models.base import DepthField

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


class _Discs(NamedTuple):
    """The pixels of many discs: those of the disc i are `pixels[starts[i] : starts[i] + sizes[i]]`, row by row."""

    pixels: Indices  # in the flattened map of the disc's own frame
    starts: Indices
    sizes: Indices
    middles: Indices  # the centre's place in `pixels`


@lru_cache(maxsize=2048)
def _disc(reach: int, width: int) -> tuple[Indices, int, Indices, Indices]:
    """Pixels whose squared distance from the centre is at most `reach`, in a map `width` wide.

    Steps from the centre in the flattened map, how many there are, and the same steps as dx and dy.
    """
    half = math.isqrt(reach)
    steps = np.arange(-half, half + 1)
    dy, dx = np.nonzero(steps[:, None] ** 2 + steps**2 <= reach)
    dx, dy = dx - half, dy - half
    return dy * width + dx, len(dx), dx, dy


def extremes(depths: Sequence[DepthField], centers: NDArray[np.int64], radii: NDArray[np.float64]) -> Floats:
    """Depth at the joints' pixels, and the least and greatest of the finite pixels within a radius of each.

    Where a joint's own pixel has no value, the first is that of the nearest pixel of the disc that has one, the first
    in row-major order of several.

    Parameters
    ----------
    depths : sequence of P DepthField
        Each person's; metres.
    centers : (P, J, 2) int64
        x, y of the joints' pixels, inside the image.
    radii : (P, J) float64
        px.

    Returns
    -------
    (3, P * J) float32
        Point, minimum, maximum; NaN where no pixel of the disc has a value.
    """
    joints = centers.shape[1]
    discs = _discs(centers, radii, np.array([depth.shape for depth in depths]))
    values = np.empty(len(discs.pixels), np.float32)
    begins = [*discs.starts[::joints].tolist(), len(values)]
    for depth, begin, end in zip(depths, begins, begins[1:], strict=False):
        values[begin:end] = depth.at(discs.pixels[begin:end])
    found = np.empty((3, len(discs.starts)), np.float32)
    found[0] = values[discs.middles]
    finite = np.isfinite(values)
    if finite.all():
        np.minimum.reduceat(values, discs.starts, out=found[1])
        np.maximum.reduceat(values, discs.starts, out=found[2])
        return found
    np.minimum.reduceat(np.where(finite, values, np.float32(np.inf)), discs.starts, out=found[1])
    np.maximum.reduceat(np.where(finite, values, np.float32(-np.inf)), discs.starts, out=found[2])
    found[:, np.isinf(found[1])] = np.nan
    for row in np.flatnonzero(~finite[discs.middles] & np.isfinite(found[1])):
        person, pixels = row // joints, slice(discs.starts[row], discs.starts[row] + discs.sizes[row])
        found[0, row] = _nearest(values[pixels], discs.pixels[pixels], centers[person, row % joints], depths[person])
    return found


def _nearest(values: Floats, pixels: Indices, center: NDArray[np.int64], depth: DepthField) -> np.float32:
    """The finite one of `values` (M,) at `pixels` (M,) that is nearest to `center` (2,)."""
    y, x = np.divmod(pixels, depth.shape[1])
    distance2 = (x - center[0]) ** 2 + (y - center[1]) ** 2
    return np.float32(values[np.where(np.isfinite(values), distance2, np.iinfo(np.int64).max).argmin()])


def _discs(centers: NDArray[np.int64], radii: NDArray[np.float64], shapes: NDArray[np.int64]) -> _Discs:
    """Discs around `centers` (P, J, 2), without what lies outside the images of `shapes` (P, 2)."""
    joints = radii.shape[1]
    # Distances between pixel centres are whole when squared, so the radius's square can be floored.
    reaches = (radii * radii).astype(np.int64).reshape(-1).tolist()
    widths = np.repeat(shapes[:, 1], joints)
    found = [_disc(reach, width) for reach, width in zip(reaches, widths.tolist(), strict=True)]
    parts = [disc[0] for disc in found]
    sizes = np.array([disc[1] for disc in found], np.intp)
    middles = sizes // 2  # a disc is symmetric about its centre
    half, last = radii[..., None], shapes[:, None, ::-1] - 1
    for row in np.flatnonzero(((centers < half) | (centers + half > last)).any(-1)).tolist():
        _, _, dx, dy = found[row]
        (x, y), (right, bottom) = centers.reshape(-1, 2)[row], last[row // joints, 0]
        inside = (x + dx >= 0) & (x + dx <= right) & (y + dy >= 0) & (y + dy <= bottom)
        middles[row] = inside[: middles[row]].sum()
        parts[row] = parts[row][inside]
        sizes[row] = len(parts[row])
    pixels = np.concatenate(parts)
    pixels += np.repeat(centers[..., 1].reshape(-1) * widths + centers[..., 0].reshape(-1), sizes)
    starts = np.cumsum(sizes) - sizes
    return _Discs(pixels, starts, sizes, starts + middles)
