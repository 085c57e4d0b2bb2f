"""Measures of the report: pure functions on arrays. NaN marks what wasn't detected or isn't annotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from etl.results.rows import Rows
from schemas.skeletons import LIMB_JOINTS

Floats = NDArray[np.float64]
Array = NDArray[np.floating[Any]]

PCK_AT: Final = (0.05, 0.1)
APART_M: Final = 0.1  # metres by which two joints must differ in depth for their order to count


def person_size(joints: Array) -> Floats:
    """(N,) px: longer side of the tight box of joints (N, 17, 2); NaN where there is none."""
    finite = np.isfinite(joints)
    low = np.where(finite, joints, np.inf).min(1)
    high = np.where(finite, joints, -np.inf).max(1)
    side = np.asarray((high - low).max(1), np.float64)
    return np.where(np.isfinite(side) & (side > 0), side, np.nan)


def errors_px(rows: Rows) -> Floats:
    """(N, 17) px between detected and annotated joints."""
    return np.asarray(np.linalg.norm(rows.xy.astype(np.float64) - rows.true_xy, axis=-1))


def relative_errors(rows: Rows) -> Floats:
    """(N, 17): the same as a fraction of the person's size."""
    return errors_px(rows) / person_size(rows.true_xy)[:, None]


def quantile(values: Array, q: float) -> float:
    """Quantile of the finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, q)) if finite.size else float("nan")


def per_joint(values: Array, *quantiles: float) -> Floats:
    """(len(quantiles), 17): quantiles of the finite values (N, 17) of each joint."""
    return np.array([[quantile(values[:, joint], q) for joint in range(values.shape[1])] for q in quantiles])


def pck(relative: Array, alpha: float) -> float:
    """Percentage of correct keypoints: errors below `alpha` of the person's size (Yang and Ramanan, PAMI 2013)."""
    finite = relative[np.isfinite(relative)]
    return float((finite < alpha).mean()) if finite.size else float("nan")


@dataclass(frozen=True)
class Calibration:
    """Relation of confidence and error.

    Parameters
    ----------
    confidence : (B,) float
        Mean in each bin; bins have equal counts, but are at least 0.01 wide.
    median, p90 : (B,) float
        Error in each bin, as a fraction of the person's size.
    correct : (B,) float
        Share with an error below PCK_AT[0].
    count : (B,) int
        Joints in each bin.
    rank_correlation : float
        Spearman's, of confidence and error; negative where confidence means something.
    """

    confidence: Floats
    median: Floats
    p90: Floats
    correct: Floats
    count: NDArray[np.int64]
    rank_correlation: float


def calibrate(confidence: Array, relative: Array, bins: int = 12) -> Calibration | None:
    """Calibration of confidences (...) against relative errors (...); None with fewer than 2 bins' worth."""
    finite = np.isfinite(confidence) & np.isfinite(relative)
    c, e = confidence[finite].astype(np.float64), relative[finite]
    # Detectors are often sure: bins that differ by less than a hundredth would be one point.
    edges = np.unique(np.quantile(c, np.linspace(0, 1, bins + 1)).round(2)) if c.size >= 20 else np.zeros(0)
    if len(edges) < 3:
        return None
    place = np.clip(np.searchsorted(edges, c, side="right") - 1, 0, len(edges) - 2)
    used = [i for i in range(len(edges) - 1) if (place == i).any()]
    return Calibration(
        confidence=np.array([c[place == i].mean() for i in used]),
        median=np.array([np.median(e[place == i]) for i in used]),
        p90=np.array([np.quantile(e[place == i], 0.9) for i in used]),
        correct=np.array([(e[place == i] < PCK_AT[0]).mean() for i in used]),
        count=np.array([(place == i).sum() for i in used]),
        rank_correlation=float(spearmanr(c, e).statistic),
    )


@dataclass(frozen=True)
class Line:
    """Detected depth = scale · true depth + offset, by least squares.

    Parameters
    ----------
    scale, offset : float
        1 and metres.
    correlation : float
        Pearson's.
    count : int
        Joints.
    """

    scale: float
    offset: float
    correlation: float
    count: int


def fit_line(detected: Array, true: Array) -> Line | None:
    """Line through depths (...) in metres; None where the true depths are too few or too alike to tell."""
    finite = np.isfinite(detected) & np.isfinite(true)
    x, y = true[finite].astype(np.float64), detected[finite].astype(np.float64)
    if x.size < 10 or np.ptp(x) < 0.05 or np.ptp(y) == 0:
        return None
    scale, offset = np.polyfit(x, y, 1)
    return Line(float(scale), float(offset), float(np.corrcoef(x, y)[0, 1]), int(x.size))


def ordinal_accuracy(detected: Array, true: Array, apart: float = APART_M) -> tuple[Floats, NDArray[np.int64]]:
    """Share of pairs of joints of one person in the right order of depth.

    Parameters
    ----------
    detected, true : (N, 17) float
        Metres.
    apart : float
        Pairs whose true depths differ by less don't count.

    Returns
    -------
    accuracy : (17, 17) float64
        Symmetric; NaN where no pair counts.
    count : (17, 17) int64
        Pairs that count.
    """
    joints = detected.shape[1]
    accuracy = np.full((joints, joints), np.nan)
    count = np.zeros((joints, joints), np.int64)
    for i in range(joints):
        truth, found = true[:, i, None] - true, detected[:, i, None] - detected
        finite = np.isfinite(truth) & np.isfinite(found) & (np.abs(truth) > apart)
        right = (np.sign(truth) == np.sign(found)) & finite
        count[i] = finite.sum(0)
        accuracy[i] = np.where(count[i] > 0, right.sum(0) / np.maximum(count[i], 1), np.nan)
    return accuracy, count


def overall(accuracy: Floats, count: NDArray[np.int64]) -> float:
    """Mean of an accuracy (17, 17) over all pairs that count."""
    pairs = np.triu(count, 1)
    return float((np.nan_to_num(accuracy) * pairs).sum() / pairs.sum()) if pairs.any() else float("nan")


def relative_depth_errors(rows: Rows) -> Floats:
    """(N, 17) |detected / true - 1| of depths."""
    return np.asarray(np.abs(rows.depth.astype(np.float64) / rows.true_depth - 1))


def table_by(names: NDArray[np.str_], rows: Rows, title: str) -> pd.DataFrame:
    """One row a group: frames, how many ok, and the measures; those of truth are left out where there is none.

    Parameters
    ----------
    names : (N,) str
        Group of each row.
    rows : Rows
        The rows.
    title : str
        Head of the first column.
    """
    lines = []
    for name in sorted(set(names.tolist())):
        group = rows.take(names == name)
        lines.append({title: name, "frames": len(group), "ok": float(group.ok.mean()), **measures_of(group)})
    return pd.DataFrame(lines)


def measures_of(rows: Rows) -> Mapping[str, float]:
    """The figures of a group of rows by their names in tables."""
    finite = rows.confidence[np.isfinite(rows.confidence)]
    found: dict[str, float] = {"confidence mean": float(finite.mean()) if finite.size else float("nan")}
    if rows.has_truth:
        limbs = list(LIMB_JOINTS)
        errors, relative = errors_px(rows)[:, limbs], relative_errors(rows)[:, limbs]
        found |= {
            "2D error median px": quantile(errors, 0.5),
            "2D error 90 % px": quantile(errors, 0.9),
            f"PCK@{PCK_AT[0]:g}": pck(relative, PCK_AT[0]),
            f"PCK@{PCK_AT[1]:g}": pck(relative, PCK_AT[1]),
            "depth error median": quantile(relative_depth_errors(rows), 0.5),
            "depth order right": overall(*ordinal_accuracy(rows.depth, rows.true_depth)),
        }
    else:
        found |= {"depth median m": quantile(rows.depth, 0.5)}
    return found | {"depth spread median cm": 100 * quantile(rows.depth_max - rows.depth_min, 0.5)}


def merit(rows: Rows) -> Floats:
    """(N,) by which frames are ranked, small is good: mean error of the limb joints, or doubt without ground truth."""
    limbs = list(LIMB_JOINTS)
    values = relative_errors(rows)[:, limbs] if rows.has_truth else 1 - rows.confidence[:, limbs].astype(np.float64)
    whole = np.isfinite(values).all(1) & rows.ok
    return np.where(whole, np.where(whole[:, None], values, 0).mean(1), np.nan)


def best_median_worst(merit: Floats, sequence: NDArray[np.integer], each: int = 3) -> dict[str, list[int]]:
    """Rows of the best, the middle and the worst merit; each list from different sequences while there are such."""
    ranked = np.flatnonzero(np.isfinite(merit))
    ranked = ranked[np.argsort(merit[ranked], kind="stable")]
    if not len(ranked):
        return {}
    middle = ranked[np.argsort(np.abs(np.arange(len(ranked)) - (len(ranked) - 1) / 2), kind="stable")]
    orders = {"best": ranked, "median": middle, "worst": ranked[::-1]}
    return {name: _spread(order, sequence, each) for name, order in orders.items()}


def _spread(order: NDArray[np.intp], sequence: NDArray[np.integer], each: int) -> list[int]:
    firsts = np.sort(np.unique(sequence[order], return_index=True)[1])
    chosen = [int(order[i]) for i in firsts[:each]]
    return chosen + [int(i) for i in order.tolist() if i not in chosen][: each - len(chosen)]
