"""Test whether the detections of a sequence belong to its annotations.

The detected joints are compared with the annotated joints as they are, and as they would be under each known fault
(etl.alignment.hypotheses): shifted times, another frame rate, exchanged sides, another camera. Detected depths are
compared with annotated depths, to find millimetres for metres. If the annotations do not fit and no fault explains
it, the result is a misfit. All functions are pure functions on arrays; etl.alignment.judge applies them to files.

Errors and distances are fractions of the person's size: the longer side of the tight box of the annotated joints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from etl.alignment.hypotheses import IDENTITY, ROOTS, Hypothesis, annotated_under, exchanges, shifts
from etl.alignment.timing import Timing, fit, significance
from etl.alignment.tracks import Floats, Ints, Track, relative_errors, rows_to_judge, steady
from schemas.skeletons import LIMB_JOINTS

_OF_POSITION: Final = ("shift", "rate", "left_right", "left_right_arms", "left_right_legs", "camera", "misfit")

# Evidence that a position fault needs. Fewer frames or joints could agree by chance.
MIN_ROWS: Final = 5
MIN_SAMPLES: Final = 24  # two frames of 12 limb joints
MAX_ROWS: Final = 500  # evenly spaced; more rows cost time and change no verdict
# Two explanations are compared on the joints that they put at different places: a side view says nothing about sides.
MIN_DISTANCE: Final = 0.03  # the embedded detector errs by 0.01 to 0.03
# The better explanation must fit (below MISFIT), must be far better than the other, and must be nearer on most joints.
ERROR_RATIO: Final = 0.6
ERROR_GAIN: Final = 0.01  # below that, a detector's own offset decides
MIN_SHARE: Final = 0.6
# Detectors exchange arms or legs themselves, so a fault of the annotations needs more evidence there.
MIN_SHARE_OF_PART: Final = 0.75
PART_COST: Final = 1.25  # factor by which a part must fit better than both sides together
MISFIT: Final = 0.12  # between the errors of a right annotation (0.03) and of another action's (0.17)
ERROR_CAP: Final = 0.3  # a lost joint must not decide which explanation is best
DEPTH_FACTOR: Final = 10**0.5  # metres and millimetres differ by 1000; scale errors of depth stay below 3

# Time is judged by the motion alone: the constant offset of each joint is removed first.
MIN_ROWS_OF_TIME: Final = 16  # about 0.6 s at 25 Hz, half a stride
MIN_SHIFT: Final = 0.25  # frames; resampling alone shifts by up to that
SHARP_SHIFT: Final = 0.75  # frames; with a wider interval the neighbouring frame is possible too
MIN_OCTAVES: Final = 0.5  # between the same rate (0) and the double or half one (1)
MAX_ERROR_OF_TIME: Final = 0.1
FAST_QUANTILE: Final = 0.75  # time is judged by joints that move more than three quarters of all
MIN_SIGNIFICANCE: Final = 1.5  # standard errors


@dataclass(frozen=True)
class Finding:
    """A fault and its evidence.

    Parameters
    ----------
    fault : str
        A key of FAULTS.
    text : str
        The fault in words.
    identity, best : float, optional
        Median error of the annotations as they are, and under the fault, as fractions of the person's size, on the
        joints that differ. For ``depth_unit``: 1, and the median ratio of detected to true depth. `best` is None for
        a misfit.
    samples : int
        Number of compared joints.
    """

    fault: str
    text: str
    identity: float | None = None
    best: float | None = None
    samples: int = 0

    def __str__(self) -> str:
        if self.identity is None or self.best is None:
            return self.text
        if self.fault == "depth_unit":
            return f"{self.text} (median of {self.samples} joints)"
        errors = f"error {self.best:.1%} of the person's size instead of {self.identity:.1%}"
        return f"{self.text} ({errors}, on {self.samples} joints)"


@dataclass(frozen=True)
class Judgement:
    """Result of one sequence.

    Parameters
    ----------
    findings : tuple of Finding
        At most one about positions and one about depth.
    timing : Timing, optional
        The fitted shift; None if it cannot be fitted, or another fault was found.
    untold : mapping of str to str
        Faults that can neither be found nor excluded, with the reason.
    """

    findings: tuple[Finding, ...]
    timing: Timing | None
    untold: Mapping[str, str]


def judge_sequence(track: Track, cameras: Mapping[str, Track] | None = None) -> Judgement:
    """Find the faults of one sequence.

    Parameters
    ----------
    track : Track
        The sequence.
    cameras : mapping of str to Track, optional
        The same recording from other cameras.
    """
    untold: dict[str, str] = {}
    found, timing = judge_positions(track, cameras or {}, untold)
    depth = judge_depth(track.detected_depth, track.true_depth, untold)
    return Judgement(tuple(finding for finding in (found, depth) if finding), timing, untold)


def judge_depth(detected: Floats, true: Floats, untold: dict[str, str]) -> Finding | None:
    """Test whether detected and true depths (...) differ by a factor near 1000 or 1/1000 in the median."""
    known = np.isfinite(detected) & np.isfinite(true) & (detected > 0) & (true > 0)
    if known.sum() < MIN_SAMPLES:
        untold["depth_unit"] = f"{known.sum()} joints with both depths, where {MIN_SAMPLES} are needed"
        return None
    ratio = float(np.median(detected[known] / true[known]))
    for factor, text in ((1000.0, "detected depths are in mm"), (0.001, "annotated depths are in mm")):
        if factor / DEPTH_FACTOR < ratio < factor * DEPTH_FACTOR:
            evidence = f"{text}: detected depth is {ratio:.3g} times the true one"
            return Finding("depth_unit", evidence, 1.0, ratio, int(known.sum()))
    return None


def judge_positions(
    track: Track, cameras: Mapping[str, Track], untold: dict[str, str]
) -> tuple[Finding | None, Timing | None]:
    """Find the fault that explains the detections best, if it is clearly better than the annotations as they are.

    Of several, the one with the smallest mean error is taken. A fault of time counts only if no exchange and no
    camera fits better.
    """
    rows = rows_to_judge(track, MAX_ROWS)
    if len(rows) < MIN_ROWS:
        reason = f"{len(rows)} frames with a detection and a usable annotation, where {MIN_ROWS} are needed"
        untold |= dict.fromkeys(_OF_POSITION, reason)
        return None, None
    if not cameras:
        untold["camera"] = "no other camera of this recording"
    comparison = _Comparison(track, cameras, rows)
    others = list(exchanges(cameras))
    clear = [(hypothesis, finding) for hypothesis in others if (finding := comparison.evidence(hypothesis))]
    timing, late = comparison.in_time(untold)
    if late and not comparison.misfits(late[0]) and not any(comparison.fits_better(o, late[0]) for o in others):
        clear.append(late)
    if clear:
        # If arms or legs alone fit hardly better, a side view hides the others, and both are exchanged.
        best, finding = min(clear, key=lambda p: comparison.cost(p[0]) * (PART_COST if p[0].fault in ROOTS else 1))
        return finding, timing if best.fault == "shift" else None
    if comparison.misfits(IDENTITY):
        return comparison.misfit(), None
    return None, timing


class _Comparison:
    """Errors of the detections of one sequence under each hypothesis."""

    def __init__(self, track: Track, cameras: Mapping[str, Track], rows: Ints) -> None:
        self.track, self.cameras, self.rows = track, cameras, rows
        self.size = track.size[rows, None]
        self.detected = track.detected[rows][:, LIMB_JOINTS]
        self._joints: dict[Hypothesis, Floats] = {}

    def joints(self, hypothesis: Hypothesis) -> Floats:
        """Limb joints (M, 12, 2) px under a hypothesis."""
        if hypothesis not in self._joints:
            joints = annotated_under(hypothesis, self.track, self.cameras, self.rows)
            self._joints[hypothesis] = joints[:, LIMB_JOINTS]
        return self._joints[hypothesis]

    def errors(self, first: Hypothesis, other: Hypothesis, *, offset: bool = True) -> tuple[Floats, Floats]:
        """Errors (M, 12) under two hypotheses; NaN where either gives no joint.

        With ``offset=False`` the constant offset of each joint is removed first.
        """
        mine, theirs = self.joints(first), self.joints(other)
        common = np.isfinite(mine + theirs + self.detected).all(-1, keepdims=True)

        def off(joints: Floats) -> Floats:
            joints = np.where(common, joints, np.nan)
            return relative_errors(self.detected if offset else steady(self.detected, joints), joints, self.size)

        return off(mine), off(theirs)

    def evidence(self, other: Hypothesis) -> Finding | None:
        """Return the evidence that `other` is clearly better than the annotations as they are; None if it is not."""
        mine, theirs = self.errors(IDENTITY, other)
        differs = np.linalg.norm(self.joints(other) - self.joints(IDENTITY), axis=-1) / self.size > MIN_DISTANCE
        differs &= np.isfinite(theirs)
        if differs.sum() < MIN_SAMPLES or differs.any(1).sum() < MIN_ROWS:
            return None
        best, identity = float(np.median(theirs[differs])), float(np.median(mine[differs]))
        nearer = float((theirs < mine)[differs].mean())
        share = MIN_SHARE_OF_PART if other.fault in ROOTS else MIN_SHARE
        if best >= min(ERROR_RATIO * identity, identity - ERROR_GAIN, MISFIT) or nearer <= share:
            return None
        return Finding(other.fault, str(other), identity, best, int(differs.sum()))

    def cost(self, hypothesis: Hypothesis, *, offset: bool = True) -> float:
        """Mean error relative to that of the annotations as they are; each error is limited to ERROR_CAP."""
        mine, theirs = (np.minimum(errors, ERROR_CAP) for errors in self.errors(IDENTITY, hypothesis, offset=offset))
        finite = np.isfinite(theirs)
        return float(theirs[finite].mean() / max(mine[finite].mean(), 1e-9)) if finite.any() else np.inf

    def fits_better(self, rival: Hypothesis, hypothesis: Hypothesis) -> bool:
        """Whether `rival` fits better on the joints that both hypotheses give."""
        mine, theirs = (np.minimum(errors, ERROR_CAP) for errors in self.errors(hypothesis, rival))
        return bool(np.nansum(theirs) < np.nansum(mine))

    def median(self, hypothesis: Hypothesis) -> float:
        """Median error of the limb joints that the hypothesis gives; NaN if they are too few."""
        errors = self.errors(IDENTITY, hypothesis)[1]
        finite = errors[np.isfinite(errors)]
        return float(np.median(finite)) if len(finite) >= MIN_SAMPLES else np.nan

    def misfits(self, hypothesis: Hypothesis) -> bool:
        """Whether the joints do not fit under a hypothesis."""
        return self.median(hypothesis) >= MISFIT

    def misfit(self) -> Finding:
        """Return the finding of a misfit."""
        error, count = self.median(IDENTITY), int(np.isfinite(self.errors(IDENTITY, IDENTITY)[0]).sum())
        words = f"the annotations don't fit, and no known fault explains it: error {error:.0%} of the person's size"
        return Finding("misfit", f"{words} in the median of {count} joints", error, samples=count)

    def in_time(self, untold: dict[str, str]) -> tuple[Timing | None, tuple[Hypothesis, Finding] | None]:
        """Fit the shift; also return the hypothesis and its finding if a shift or a rate is a fault."""
        within = shifts(self.track)
        best = min((Hypothesis("shift", k) if k else IDENTITY for k in within), key=self._cost_in_time)
        timing = fit(self.track, self.rows, best.shift)
        faster = self._rate(best, within)
        if faster:
            return None, faster
        if timing is None or timing.rows < MIN_ROWS_OF_TIME:
            rows = len(self.rows) if timing is None else timing.rows
            few = f"{rows} frames tell, where {MIN_ROWS_OF_TIME} are needed"
            reason = few if rows < MIN_ROWS_OF_TIME else "no motion that can be compared"
            untold |= dict.fromkeys(("shift", "rate"), reason)
            return None, None
        shift = timing.shift
        named = Hypothesis("shift", round(shift.value), about=shift.half >= SHARP_SHIFT)
        if named.shift and shift.least > MIN_SHIFT:
            finding = self._finding(named, f"fitted {shift} frames")
            sharp = shift.half < max(SHARP_SHIFT, abs(shift.value) / 2)
            sure = abs(named.shift) == 1 or self._surely(IDENTITY, named)
            if finding and sure and (sharp or (finding.best or np.inf) < ERROR_RATIO * (finding.identity or 0.0)):
                return timing, (named, finding)
        if named.shift or shift.half >= SHARP_SHIFT:
            untold["shift"] = f"the motion fixes it to {shift} frames only"
        return timing, None

    def _rate(self, best: Hypothesis, within: list[int]) -> tuple[Hypothesis, Finding] | None:
        """Return another rate and its finding if it is clearly better than the best shift."""
        every = [Hypothesis("rate", k, rate) for rate in (2.0, 0.5) for k in within]
        other = min(every, key=lambda h: self._cost_in_time(h) * (1.25 if h.shift else 1.0))
        if self._cost_in_time(other) >= self._cost_in_time(best):
            return None
        timing = fit(self.track, self.rows, other.shift, other.rate, free_rate=True)
        if timing is None or timing.rate is None or timing.rate.value <= 0:
            return None
        octaves = abs(np.log2(timing.rate.value)) - timing.rate.half / (timing.rate.value * np.log(2))
        off = abs(np.log2(timing.rate.value / other.rate))
        if timing.rows < MIN_ROWS_OF_TIME or octaves < MIN_OCTAVES or off > MIN_OCTAVES / 2:
            return None
        if not self._surely(best, other):
            return None
        finding = self._finding(other, f"fitted rate {timing.rate.value:.2f} ± {timing.rate.half:.2f}")
        return (other, finding) if finding else None

    def _cost_in_time(self, hypothesis: Hypothesis) -> float:
        return self.cost(hypothesis, offset=False)

    def _surely(self, first: Hypothesis, other: Hypothesis) -> bool:
        """Whether `other` explains the motion better than `first`, by more than chance."""
        mine, theirs = (np.minimum(errors, ERROR_CAP) for errors in self.errors(first, other, offset=False))
        finite = np.isfinite(theirs).all(1)
        return significance((mine - theirs)[finite].mean(1)) > MIN_SIGNIFICANCE

    def _finding(self, hypothesis: Hypothesis, fitted: str) -> Finding | None:
        """Return the evidence for another time on the joints that move most; None if the fit is poor."""
        mine, theirs = self.errors(IDENTITY, hypothesis, offset=False)
        moved = np.where(
            np.isfinite(theirs), np.linalg.norm(self.joints(hypothesis) - self.joints(IDENTITY), axis=-1), 0
        )
        finite = moved > np.quantile(moved, FAST_QUANTILE)
        if not finite.any() or np.median(theirs[finite]) >= MAX_ERROR_OF_TIME:
            return None
        medians = float(np.median(mine[finite])), float(np.median(theirs[finite]))
        return Finding(hypothesis.fault, f"{hypothesis}, {fitted}", *medians, int(finite.sum()))
