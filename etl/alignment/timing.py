"""Whether detected and annotated motion happen at the same time: a shift and a rate with their uncertainty.

A per-frame detector has no lag of its own, so what it finds in frame f is what is annotated for some moment m(f), plus
a constant offset of each joint (a detector's hip isn't the annotated one) and noise:

    detected(f) = offset + annotated(rate · f + shift) + noise

Shift and rate are fitted by robust least squares: Gauss-Newton, so that each step regresses the residual on the
annotated velocity. A detector's noise isn't white: it errs alike in neighbouring frames, and each joint in its own way
as the pose changes. So the variance adds up what frames (with their neighbours) and what joints or whole limbs say on
their own (Newey and West 1987; Cameron, Gelbach and Miller 2011). Where one arm moves and the rest stands, that is one
limb's motion, whose bias looks like a shift: the degrees of freedom are the number of moving limbs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.special import stdtrit

from etl.alignment.tracks import Floats, Ints, Track, sample, step_of
from schemas.skeletons import LIMB_JOINTS

LEVEL: Final = 0.975  # of the one-sided quantile: intervals hold the truth in 95 of 100 cases
MOST_LAG: Final = 25  # rows within which errors may hang together
STEPS: Final = 12  # of Gauss and Newton
FAR: Final = 4.0  # rows by which the optimum may lie from where a fit begins
LEAST_ROWS: Final = 8
JOINTS_A_LIMB: Final = 3  # LIMB_JOINTS are two legs and two arms
_BISQUARE: Final = 4.685  # standard deviations at which an error stops counting (Beaton and Tukey 1974)


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error, and the degrees of freedom behind that."""

    value: float
    error: float
    freedom: float

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval (Student's t)."""
        return float(stdtrit(max(self.freedom, 1.0), LEVEL)) * self.error

    @property
    def least(self) -> float:
        """Smallest absolute value in the interval; 0 where it holds 0."""
        return max(abs(self.value) - self.half, 0.0)

    def __str__(self) -> str:
        return f"{self.value:+.2f} ± {self.half:.2f}"


@dataclass(frozen=True)
class Timing:
    """When the frames of a sequence were annotated: frame f shows what is annotated for rate · f + shift.

    Parameters
    ----------
    shift : Estimate
        Frames of the media.
    rate : Estimate, optional
        Factor; None where it was taken as given.
    rows : int
        Number of rows used.
    """

    shift: Estimate
    rate: Estimate | None
    rows: int


@dataclass(frozen=True)
class Motion:
    """Input of one step of the fit.

    Parameters
    ----------
    residual : (N, J, 2) float64
        Detected minus annotated joints, as fractions of the person's size.
    slopes : (N, J, 2, P) float64
        Change of the annotated joints with each parameter, in the same unit.
    group : (N,) int64
        Person of each row; every joint of every person has an offset of its own.
    """

    residual: Floats
    slopes: Floats
    group: Ints


@dataclass(frozen=True)
class Step:
    """One regression: change of the parameters (P,), their covariance (P, P), and number of limbs behind each (P,)."""

    change: Floats
    covariance: Floats
    limbs: Floats


def fit(track: Track, rows: Ints, shift: float = 0.0, rate: float = 1.0, *, free_rate: bool = False) -> Timing | None:
    """Shift, and rate where it is free, by which the annotated motion of the limbs fits the detected one best.

    Parameters
    ----------
    track : Track
        The sequence.
    rows : (M,) int64
        Those to look at.
    shift, rate : float
        Where to begin: the fit finds the optimum next to it.
    free_rate : bool
        Fit the rate too.

    Returns
    -------
    Timing or None
        None where nothing moves, or no optimum is near.
    """
    limbs = list(LIMB_JOINTS)
    detected, size = track.detected[rows][:, limbs], track.size[rows, None, None]
    frames, people = track.frame[rows].astype(np.float64), track.person[rows]
    reach = step_of(track) / 2
    # The rate turns round the middle of the frames: there it is hardly correlated with the shift.
    first = float(track.frame.min())
    middle = first + float(np.median(frames) - first) / max(rate, 1.0)
    begun = np.array([rate * (middle - first) + first + shift, rate])  # the moment that the middle shows; rate
    parameters, most = begun.copy(), np.array([2 * FAR * reach, rate / 3])
    for left in reversed(range(STEPS)):
        moments = parameters[0] + parameters[1] * (frames - middle)
        before, now, after = (sample(track, people, moments + k * reach)[:, limbs] for k in (-1, 0, 1))
        slopes = ((after - before) / (2 * reach) / size)[..., None]
        residual = (detected - now) / size
        finite = np.isfinite(slopes[..., 0] + residual).all((1, 2))
        if finite.sum() < LEAST_ROWS:
            return None
        if free_rate:
            slopes = np.concatenate([slopes, slopes * (frames - middle)[:, None, None, None]], axis=-1)
        step = regress(Motion(residual[finite], slopes[finite], people[finite]))
        if step is None:
            return None
        change = np.zeros(2)
        change[: len(step.change)] = step.change
        parameters += np.clip(change, -most / 4, most / 4)
        if (np.abs(parameters - begun) > most).any():
            return None
        # Rows enter and leave at the ends, so that the last digits may never come to rest.
        if abs(change[0]) < 0.01 or (left == 0 and abs(change[0]) < 0.2):
            errors = np.sqrt(np.diag(step.covariance))
            found = [Estimate(*map(float, values)) for values in zip(parameters, errors, step.limbs, strict=False)]
            at_middle = parameters[0] - first - rate * (middle - first)
            return Timing(replace(found[0], value=float(at_middle)), found[1] if free_rate else None, int(finite.sum()))
    return None


def regress(motion: Motion, rounds: int = 5) -> Step | None:
    """Robust least squares of the residual on the slopes, with an offset for each joint of each person.

    Parameters
    ----------
    motion : Motion
        Without NaN; rows in order of time within each person.
    rounds : int
        Of reweighting.

    Returns
    -------
    Step or None
        None where nothing moves.
    """
    weights = np.ones(motion.residual.shape[:2])
    for _ in range(rounds):
        residual = _centred(motion.residual[..., None], weights, motion.group)[..., 0]
        slopes = _centred(motion.slopes, weights, motion.group)
        information = np.einsum("nj,njcp,njcq->pq", weights, slopes, slopes)
        if np.linalg.matrix_rank(information, hermitian=True) < len(information):
            return None
        change = np.linalg.solve(information, np.einsum("nj,njcp,njc->p", weights, slopes, residual))
        left = residual - slopes @ change
        distance = np.linalg.norm(left, axis=-1)
        # The median of a two-dimensional normal distance is 1.18 standard deviations of a coordinate.
        scale = max(float(np.median(distance)) / np.sqrt(2 * np.log(2)), 1e-9)
        weights = np.clip(1 - (distance / (_BISQUARE * scale)) ** 2, 0, None) ** 2
    scores = np.einsum("nj,njcp,njc->njp", weights, slopes, left)
    inverse = np.linalg.inv(information)
    joints = _sums(scores, motion.group)
    limbs = joints.reshape(len(joints) // JOINTS_A_LIMB, JOINTS_A_LIMB, -1).sum(1)
    apart = max((_scatter(joints), _scatter(limbs)), key=np.trace)
    covariance = inverse @ (_by_time(scores.sum(1)) + apart) @ inverse
    # What each limb contributes to the variance that white noise would give: n equal ones count as n.
    parts = _sums(weights[..., None] * ((slopes @ inverse) ** 2).sum(2), motion.group)
    shares = parts.reshape(len(limbs), JOINTS_A_LIMB, -1).sum(1)
    return Step(change, covariance, shares.sum(0) ** 2 / (shares**2).sum(0))


def _centred(values: Floats, weights: Floats, group: Ints) -> Floats:
    """Values (N, J, 2, P) without the weighted mean of each joint of each person."""
    result = np.empty_like(values)
    for who in np.unique(group):
        own = group == who
        total = np.maximum(weights[own].sum(0), 1e-12)[:, None, None]
        result[own] = values[own] - np.einsum("nj,njcp->jcp", weights[own], values[own]) / total
    return result


def _by_time(scores: Floats) -> Floats:
    """Variance of the sum of scores (N, P) whose neighbours in time hang together (Bartlett's weights)."""
    lags = min(len(scores) // 5, MOST_LAG)
    total = scores.T @ scores
    for lag in range(1, lags + 1):
        product = scores[lag:].T @ scores[:-lag]
        total = total + (1 - lag / (lags + 1)) * (product + product.T)
    return np.asarray(total, np.float64)


def _sums(values: Floats, group: Ints) -> Floats:
    """Sums over the rows of values (N, J, P), for each joint of each person: (J · people, P)."""
    return np.concatenate([values[group == who].sum(0) for who in np.unique(group)])


def _scatter(sums: Floats) -> Floats:
    """Variance of the total of independent sums (K, P)."""
    return np.asarray(sums.T @ sums * len(sums) / (len(sums) - 1), np.float64)


def significance(gains: Floats) -> float:
    """Return the mean of gains (N,) in standard errors above zero; neighbours in time are correlated."""
    if len(gains) < 5:
        return 0.0
    variance = float(_by_time((gains - gains.mean())[:, None])[0, 0])
    return float(gains.sum() / np.sqrt(max(variance, 1e-18)))
