"""Depth at the joints and around them: at the point, and extremes and statistics of a round neighbourhood.

The joint's own pixel is (floor(x + 0.5), floor(y + 0.5)), because pixel centres have whole coordinates. For a joint
outside the image it is the nearest pixel of the image. The neighbourhood is the disc of all pixels whose centres are at
most `radius` from the centre of the joint's own pixel. Every finite pixel of the disc counts once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from etl.config import DescriptorConfig
from etl.models.base import DepthField
from etl.stages.blocks.extremes import extremes
from schemas.features import BASIC_FEATURES, POSITIONS, QUANTILES, STATISTICS
from schemas.skeletons import H36M_17

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

DEPTHS: Final = BASIC_FEATURES[3:]
PELVIS: Final = H36M_17.index("pelvis")
THORAX: Final = H36M_17.index("thorax")
_PERCENTILES: Final = np.array([0.10, 0.25, 0.50, 0.75, 0.90])
_MIN3: Final = 3
_SPLIT_GAIN: Final = 2000  # window pixels that take as long as another call of DepthField.windows
# Constants of the adaptive radius, from the published scripts.
_FACTOR, _SLOPE, _EXPONENT = 0.04, 3.0, 1.5


def names_of(settings: DescriptorConfig) -> tuple[str, ...]:
    """Names, in order, of the values of `describe_frames`."""
    return (*DEPTHS, *(STATISTICS if settings.statistics else ()))


def person_scale(joints: NDArray[np.floating]) -> Doubles:
    """Distance (...,) px between pelvis and thorax of H36M_17 joints (..., 17, 2) px."""
    torso = np.asarray(joints[..., THORAX, :], np.float64) - joints[..., PELVIS, :]
    return np.sqrt((torso * torso).sum(axis=-1))


def radius(
    confidence: NDArray[np.floating], scale: NDArray[np.floating], settings: DescriptorConfig | None = None
) -> Doubles:
    """Radius of the neighbourhood: wide for uncertain joints and, if adaptive, for large people.

    adaptive: clip(0.04 * S * (1 + 3 * (1 - c)) ** 1.5, radius_min, radius_max), the published scripts' formula;
    linear: radius_min + (1 - c) * (radius_max - radius_min), the paper's.

    Parameters
    ----------
    confidence : (...) float
        c, clipped to [0, 1] here; NaN counts as 0.
    scale : (...) float
        S, the distance of pelvis and thorax, px; NaN counts as 0. Broadcast against `confidence`.
    settings : DescriptorConfig, optional
        Rule and constants.

    Returns
    -------
    (...) float64
        px.
    """
    settings = settings or DescriptorConfig()
    doubt = 1 - _nan_to_zero(np.asarray(confidence, np.float64)).clip(0, 1)
    low, high = settings.radius_min, settings.radius_max
    if settings.radius == "linear":
        return np.broadcast_to(low + doubt * (high - low), np.broadcast_shapes(doubt.shape, np.shape(scale)))
    size = _nan_to_zero(np.asarray(scale, np.float64))
    with np.errstate(over="ignore"):
        return (_FACTOR * size * (1 + _SLOPE * doubt) ** _EXPONENT).clip(low, high)


def pixel_of(joints: NDArray[np.floating], shape: tuple[int, int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Pixels (..., 2) x, y that contain `joints` (..., 2), or are nearest to them; (0, 0) for NaN.

    `shape` is the height and width of the image, or an array of them that broadcasts against `joints`.
    """
    nearest = np.floor(np.asarray(joints, np.float64) + 0.5)
    return _nan_to_zero(nearest).clip(0, np.asarray(shape)[..., ::-1] - 1).astype(np.int64)


def _nan_to_zero(values: Doubles) -> Doubles:
    """Replace NaN by 0; for few values np.nan_to_num takes several times as long."""
    return np.where(np.isnan(values), 0.0, values)


def describe_frames(
    depths: Sequence[DepthField],
    joints: Sequence[NDArray[np.floating]],
    confidence: Sequence[NDArray[np.floating]],
    settings: DescriptorConfig | None = None,
) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Describe the depth around the joints of the people in frames.

    Many frames at once, because a single frame has so few pixels that NumPy's calls would take most of the time.

    Percentiles interpolate linearly between finite pixels; std is that of the population; mad is the median of the
    distances from the median; occlusion_asymmetry is q10 - median. The position of a quantile or an extreme is that
    of the pixel with the nearest value, the first in row-major order of several. If the joint's own pixel has no
    value, ``point`` is that of the nearest finite pixel in the neighbourhood, again the first of several. Without any
    finite pixel, all depths are the estimator's own depth of the joint, at the joint's pixel, if it has one.

    Parameters
    ----------
    depths : sequence of DepthField
        One for each frame; metres.
    joints : sequence of (P, 17, 2) float
        H36M_17 joints of each frame's people, full-image px.
    confidence : sequence of (P, 17) float
        Of the joints.
    settings : DescriptorConfig, optional
        Rules.

    Returns
    -------
    list of (values, valid)
        One for each frame. values (P, 17, F) float32: in the order of `names_of`, depths in metres, positions in
        full-image px; NaN for joints that aren't valid, except radius and person_scale. valid (P, 17) bool: the joint
        has a finite position and a depth.
    """
    settings = settings or DescriptorConfig()
    names, people = names_of(settings), [len(found) for found in joints]
    if not sum(people):
        return [(np.empty((0, 17, len(names)), np.float32), np.zeros((0, 17), bool)) for _ in people]
    # People of all frames one after the other: (P, 17, ...).
    places = np.concatenate([found for found in joints if len(found)])
    shapes = np.repeat(np.array([depth.shape for depth in depths]), people, axis=0)[:, None]
    scale = np.repeat(person_scale(places)[:, None], 17, axis=1)
    fields = [depth for depth, count in zip(depths, people, strict=True) for _ in range(count)]
    centers = pixel_of(places, shapes)
    radii = radius(np.concatenate([found for found in confidence if len(found)]), scale, settings)
    own_depth = _own_depths(depths, people)
    if settings.statistics or settings.depth_source != "point":
        by_person = zip(fields, centers, radii, own_depth, strict=True)
        values = np.concatenate([_statistics(*person, settings) for person in by_person], axis=1)
    else:
        values = extremes(fields, centers, radii)
        values = np.where(np.isnan(values), own_depth.reshape(-1), values)
    if settings.statistics:
        values[names.index("radius")] = radii.reshape(-1)
        values[names.index("person_scale")] = scale.reshape(-1)

    valid = np.isfinite(values[0]) & np.isfinite(places).all(axis=-1).reshape(-1)
    if not valid.all():
        rest = np.array([column for column, name in enumerate(names) if name not in ("radius", "person_scale")])
        values[np.ix_(rest, np.flatnonzero(~valid))] = np.nan
    table, valid = values.T.astype(np.float32).reshape(len(places), 17, -1), valid.reshape(-1, 17)
    ends = list(itertools.accumulate(people))
    return [(table[end - count : end], valid[end - count : end]) for end, count in zip(ends, people, strict=True)]


def _own_depths(depths: Sequence[DepthField], people: Sequence[int]) -> Doubles:
    """The estimators' own depths (P, 17) of the joints; NaN where they have none."""
    found = np.full((sum(people), 17), np.nan)
    first = 0
    for depth, count in zip(depths, people, strict=True):
        own = depth.joint_depth
        if own is not None:
            found[first : first + count] = own
        first += count
    return found


def _statistics(
    depth: DepthField, centers: NDArray[np.int64], radii: Doubles, own_depth: Doubles, settings: DescriptorConfig
) -> Doubles:
    """All values (F, 17) of one person except radius and scale, from square windows cut to discs."""
    names = names_of(settings)
    values = np.full((len(names), 17), np.nan)
    least = _MIN3 if settings.depth_source == "min3" else 0
    for rows in _group_by_width(radii):
        widest = int(max(radii[rows].max(), least))
        windows = depth.windows(centers[None, rows], widest).reshape(len(rows), -1)
        found = _values(_neighbourhood(windows, widest, radii[rows]), centers[rows], own_depth[rows], settings)
        for column, name in enumerate(names):
            if name in found:
                values[column, rows] = found[name]
    return values


def _group_by_width(radii: Doubles) -> list[NDArray[np.intp]]:
    """Rows of the joints that share one window width: all, or the wide ones apart if that saves many pixels.

    The neighbourhood of a hidden joint is easily ten times as large as those of the others.
    """
    order = np.argsort(radii, kind="stable")
    areas = (2 * radii[order].astype(np.int64) + 1) ** 2
    counts = np.arange(1, len(order))
    pixels = counts * areas[:-1] + (len(order) - counts) * areas[-1]
    best = int(pixels.argmin())
    if len(order) * areas[-1] - pixels[best] < _SPLIT_GAIN:
        return [np.arange(len(order))]
    return [np.sort(order[: best + 1]), np.sort(order[best + 1 :])]


class _Disc(NamedTuple):
    """The pixels of a disc in row-major order, relative to a square window around its centre."""

    flat: NDArray[np.intp]  # indices in the flattened window
    dx: NDArray[np.int64]
    dy: NDArray[np.int64]
    distance2: NDArray[np.int32]


@lru_cache(maxsize=256)
def _disc(reach: int, half: int) -> _Disc:
    """Pixels whose squared distance from the centre is at most `reach`, in a window 2 * `half` + 1 wide."""
    steps = np.arange(-half, half + 1)
    distance2 = steps[:, None] ** 2 + steps**2
    dy, dx = np.nonzero(distance2 <= reach)
    return _Disc(np.flatnonzero(distance2 <= reach), dx - half, dy - half, distance2[dy, dx].astype(np.int32))


class _Neighbourhood(NamedTuple):
    """Pixels of several joints, cut to the widest of their discs."""

    pixels: Floats  # (N, M)
    counted: NDArray[np.bool_]  # (N, M): finite and within the joint's own radius
    disc: _Disc


def _neighbourhood(windows: Floats, half: int, radii: Doubles) -> _Neighbourhood:
    # Squared distances between pixel centres are whole numbers, so the squared radius can be floored.
    reach = np.floor(radii * radii).astype(np.int32)
    disc = _disc(int(max(reach.max(), _MIN3**2 if half >= _MIN3 else 0)), half)
    pixels = windows.take(disc.flat, axis=1)
    counted = np.isfinite(pixels)
    counted &= disc.distance2 <= reach[:, None]
    return _Neighbourhood(pixels, counted, disc)


def _values(
    hood: _Neighbourhood, centers: NDArray[np.int64], own_depth: Doubles, settings: DescriptorConfig
) -> dict[str, NDArray[np.floating]]:
    """Values (N,) by name of the joints of one group."""
    pixels, counted, disc = hood
    infinity = np.float32(np.inf)
    high_filled = np.where(counted, pixels, infinity)
    lowest = high_filled.min(axis=1)
    empty = np.isinf(lowest)
    point = _point(pixels, counted, disc)
    found: dict[str, NDArray[np.floating]] = {"depth_min": lowest}
    if settings.statistics or settings.depth_source == "median":
        count = counted.sum(axis=1)
        last = np.maximum(count - 1, 0)
        ranked = np.sort(high_filled, axis=1)
        found["depth_max"] = ranked[np.arange(len(ranked)), last]
        quantiles = _interpolate(ranked, last, _PERCENTILES)
        found |= dict(zip(QUANTILES, quantiles.values.T, strict=True))
    else:
        found["depth_max"] = np.where(counted, pixels, -infinity).max(axis=1)
    if settings.statistics:
        found |= _moments(pixels, counted, count)
        found["mad"] = _median_deviation(ranked, last, quantiles.values[:, QUANTILES.index("median")])
        found["occlusion_asymmetry"] = found["q10"] - found["median"]
        found["point"] = point
        found |= _positions(high_filled, quantiles, (lowest, found["depth_max"]), disc, centers)
    if settings.depth_source == "point":
        found["depth"] = point
    elif settings.depth_source == "median":
        found["depth"] = found["median"]
    else:
        within = np.isfinite(pixels) & (disc.distance2 <= _MIN3**2)
        nearby = np.where(within, pixels, infinity).min(axis=1)
        found["depth"] = np.where(np.isinf(nearby), point, nearby)
    if empty.any():
        for name in found:
            instead: NDArray[Any]
            if name in ("std", "mad", "occlusion_asymmetry"):
                instead = np.zeros(len(empty))
            elif name.endswith(("_x", "_y")):
                instead = centers[:, "xy".index(name[-1])]
            else:
                instead = own_depth
            found[name] = np.where(empty, instead, found[name])
    return found


def _point(pixels: Floats, counted: NDArray[np.bool_], disc: _Disc) -> Floats:
    middle = len(disc.flat) // 2  # a disc is symmetric about its centre
    point = pixels[:, middle].copy()
    holes = np.flatnonzero(~np.isfinite(point))
    if len(holes):
        distance = np.where(counted[holes], disc.distance2, np.iinfo(np.int32).max)
        point[holes] = pixels[holes, distance.argmin(axis=1)]
    return point


class _Quantiles(NamedTuple):
    values: Doubles  # (N, K)
    below: NDArray[np.floating]  # (N, K), the sample values on either side
    above: NDArray[np.floating]


def _interpolate(ranked: NDArray[np.floating], last: NDArray[np.int64], percentiles: Doubles) -> _Quantiles:
    """Percentiles of the first `last` + 1 values of ascending rows; as NumPy's method 'linear'."""
    place = last[:, None] * percentiles
    floor = place.astype(np.intp)
    weight = place - floor
    rows = np.arange(len(ranked))[:, None]
    below, above = ranked[rows, floor], ranked[rows, np.minimum(floor + 1, last[:, None])]
    low, high = below.astype(np.float64), above.astype(np.float64)
    low[np.isinf(low)] = np.nan  # rows without values; inf - inf would warn
    step = high - low
    return _Quantiles(np.where(weight < 0.5, low + step * weight, high - step * (1 - weight)), below, above)


def _median_deviation(ranked: Floats, last: NDArray[np.int64], median: Doubles) -> Doubles:
    """Median (N,) of the absolute distances from the median."""
    distance = np.abs(ranked - median[:, None])  # float64; infinite where nothing counts
    distance.sort(axis=1)
    return _interpolate(distance, last, _PERCENTILES[2:3]).values[:, 0]


def _moments(pixels: Floats, counted: NDArray[np.bool_], count: NDArray[np.int64]) -> dict[str, NDArray[np.floating]]:
    many = np.maximum(count, 1)
    mean = np.where(counted, pixels, np.float32(0)).sum(axis=1, dtype=np.float64) / many
    deviation = np.where(counted, pixels - mean[:, None], 0.0)
    return {"mean": mean, "std": np.sqrt(np.einsum("nm,nm->n", deviation, deviation) / many)}


def _positions(
    high_filled: Floats, quantiles: _Quantiles, extremes: Sequence[Floats], disc: _Disc, centers: NDArray[np.int64]
) -> dict[str, NDArray[np.floating]]:
    """Positions of the pixels whose values are nearest to the quantiles and the extremes."""
    # The nearest value to a quantile is one of the two on either side: no need to try all pixels.
    low_far, high_far = quantiles.values - quantiles.below, quantiles.above - quantiles.values
    nearer = np.where(high_far < low_far, quantiles.above, quantiles.below)
    tied = (high_far == low_far) & (quantiles.above != quantiles.below)
    targets = np.concatenate([nearer, np.stack(extremes, axis=1)], axis=1)
    first = (high_filled[:, None] == targets[..., None]).argmax(axis=2)
    for row, column in np.argwhere(tied):
        other = int((high_filled[row] == quantiles.above[row, column]).argmax())
        first[row, column] = min(first[row, column], other)
    x, y = centers[:, 0, None] + disc.dx[first], centers[:, 1, None] + disc.dy[first]
    return dict(zip(POSITIONS, np.stack([x, y], axis=2).reshape(len(x), -1).T, strict=True))
