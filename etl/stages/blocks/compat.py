"""The depth descriptor as AugLift's published scripts compute it; for comparison only.

Differences from etl.stages.blocks.descriptor: coordinates are truncated toward zero, not rounded; the neighbourhood is
a sample of up to 100 random points, with duplicates; confidences above 1 aren't clipped; the extremes are the sample's
q10 and q90; missing values are zero. Merge with compat "auglift" makes the other differences: float16 vectors, scores
unclipped, visibility of the ground truth kept. The scripts don't seed their random numbers, so their values can be
reproduced only with their draws; `draw` depends on a seed alone.

Source: github.com/nikolaiwarner7/auglift at d95ad20, metric_depth/1_30_estimate_depth_proto_loop_metric_*.py.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from etl.models.base import DepthField
from etl.stages.blocks.descriptor import DEPTHS
from schemas.features import QUANTILES, STATISTICS
from schemas.skeletons import H36M_17

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

DRAWS: Final = 100
NAMES: Final = (*DEPTHS, *STATISTICS)
_PELVIS, _THORAX = H36M_17.index("pelvis"), H36M_17.index("thorax")
_MIN3: Final = 3
RADIUS_MAX: Final = 30


def pixel_of(joints: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Pixels (..., 2) x, y of joints (..., 2): truncated toward zero, then clamped to the image; 0 for NaN."""
    height, width = shape
    return np.nan_to_num(np.trunc(joints), nan=0.0).clip(0, [width - 1, height - 1]).astype(np.int64)


def whole_pixels(joints: NDArray[np.floating], shape: tuple[int, int]) -> Floats:
    """Pixels of joints (..., 2), which the script for 3DPW takes as joints; NaN stays NaN."""
    return np.where(np.isfinite(joints), pixel_of(joints, shape), np.nan).astype(np.float32)


def radius(confidence: NDArray[np.floating], scale: NDArray[np.floating]) -> Doubles:
    """Radius px: clip(0.04 * S * (1 + 3 * (1 - c)) ** 1.5, 3, 30), with c unclipped.

    Above c = 4/3, where the power isn't real, it is 3, as just below.
    """
    base = np.maximum(1 + 3 * (1 - np.asarray(confidence, np.float64)), 0)
    return (0.04 * np.asarray(scale, np.float64) * base**1.5).clip(3, RADIUS_MAX)


def draw(radii: Doubles, seed: int | tuple[int, ...]) -> Doubles:
    """Draw (..., 100, 2) dx, dy px, uniform in the squares [-r, r] of `radii` (...).

    Parameters
    ----------
    radii : (...) float64
        px.
    seed : int or tuple of int
        Non-negative; a tuple such as (frame, person).
    """
    unit = np.random.default_rng(seed).uniform(-1, 1, (*np.shape(radii), DRAWS, 2))
    return unit * np.asarray(radii)[..., None, None]


def describe(
    depth: DepthField,
    joints: NDArray[np.floating],
    confidence: NDArray[np.floating],
    *,
    draws: Doubles | None = None,
    seed: int | tuple[int, ...] = 0,
    depth_source: Literal["median", "min3"] = "median",
) -> tuple[Floats, NDArray[np.bool_]]:
    """Describe the depth around the joints of the people in one frame, as the scripts do.

    A point of the sample counts if its draw lies within the disc, its pixel, truncated toward zero, lies within the
    image, and the map has a value there (the scripts never meet maps without).

    Parameters
    ----------
    depth : DepthField
        Metres.
    joints : (P, 17, 2) float
        H36M_17 joints, full-image px.
    confidence : (P, 17) float
        Of the joints, unclipped.
    draws : (P, 17, n, 2) float, optional
        dx, dy px of the random points; by default from `draw` and `seed`.
    seed : int or tuple of int
        See `draw`.
    depth_source : {"median", "min3"}
        Content of ``depth``: the sample's median (scripts v3), or the minimum within 3 px (v4).

    Returns
    -------
    values : (P, 17, F) float32
        In the order of NAMES. ``point`` is the exact pixel, ``depth_min`` and ``depth_max`` are q10 and q90. If no
        point counts, ``depth`` is the exact pixel and all others, also radius and scale, are 0. NaN for joints that
        aren't valid.
    valid : (P, 17) bool
        The joint has a finite position and a depth.
    """
    people = len(joints)
    values, valid = np.zeros((people, 17, len(NAMES))), np.zeros((people, 17), bool)
    if not people:
        return values.astype(np.float32), valid
    centers = pixel_of(joints, depth.shape)
    ends = np.asarray(joints, np.float64)
    scale = np.nan_to_num(np.linalg.norm(ends[:, _THORAX] - ends[:, _PELVIS], axis=-1))
    radii = radius(np.nan_to_num(confidence), scale[:, None])
    draws = draw(radii, seed) if draws is None else np.asarray(draws, np.float64)
    half = max(int(np.ceil(radii.max())), _MIN3)
    windows = depth.windows(centers, half).astype(np.float64)
    for p, j in np.ndindex(people, 17):
        samples, pixels = _sample(windows[p, j], centers[p, j], draws[p, j], float(radii[p, j]), depth.shape)
        found = _statistics(samples, pixels) if len(samples) else {}
        exact = float(windows[p, j, half, half])
        if found:
            found |= {"radius": float(radii[p, j]), "person_scale": float(scale[p])}
        found["point"] = exact
        found["depth"] = found.get("median", exact) if depth_source == "median" else _lowest(windows[p, j])
        valid[p, j] = np.isfinite(found["depth"]) and np.isfinite(joints[p, j]).all()
        values[p, j] = [found.get(name, 0.0) for name in NAMES] if valid[p, j] else np.nan
    return values.astype(np.float32), valid


def _sample(
    window: Doubles, center: NDArray[np.int64], draws: Doubles, r: float, shape: tuple[int, int]
) -> tuple[Doubles, NDArray[np.int64]]:
    """Depths (M,) and pixels (M, 2) of the points that count, in the order of the draws."""
    pixels = np.trunc(center + draws).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < [shape[1], shape[0]])).all(axis=1)
    kept = inside & ((draws * draws).sum(axis=1) <= r * r)
    place = pixels[kept] - center + window.shape[0] // 2
    samples = window[place[:, 1], place[:, 0]]
    finite = np.isfinite(samples)
    return samples[finite], pixels[kept][finite]


def _statistics(samples: Doubles, pixels: NDArray[np.int64]) -> dict[str, float]:
    """Values by name; positions are those of the first sample nearest in value."""
    found = dict(zip(QUANTILES, np.percentile(samples, [10, 25, 50, 75, 90]).tolist(), strict=True))
    found |= {"depth_min": found["q10"], "depth_max": found["q90"]}
    for name in tuple(found):
        x, y = pixels[np.abs(samples - found[name]).argmin()].tolist()
        found |= {f"{name}_x": x, f"{name}_y": y}
    found["mean"], found["std"] = float(samples.mean()), float(samples.std())
    found["mad"] = float(np.median(np.abs(samples - found["median"])))
    found["occlusion_asymmetry"] = found["q10"] - found["median"]
    return found


def _lowest(window: Doubles) -> float:
    """Minimum of the finite pixels of the image within 3 px of the window's centre; NaN if there are none."""
    steps = np.arange(len(window)) - len(window) // 2
    near = window[steps[:, None] ** 2 + steps**2 <= _MIN3**2]
    near = near[np.isfinite(near)]
    return float(near.min()) if len(near) else float("nan")
