"""Alignment of detections with annotations: which known fault, if any, explains the detections better.

The detected joints are compared with the annotated ones as they are, and as they would be under each fault that this
field knows (etl.alignment.hypotheses): times shifted or run at another rate, left and right or x and y exchanged,
another scale or place in the image, the annotations of another camera, millimetres for metres. Where the annotations
don't fit and none of these explains it, that is a finding too. Pure functions on arrays; etl.alignment.judge applies
them to files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from etl.alignment.hypotheses import IDENTITY, ROOTS, Hypothesis, annotated_under, exchanges, scales, shifts
from etl.alignment.timing import Timing, fit, significance
from etl.alignment.tracks import Floats, Ints, Track, relative_errors, rows_to_judge, steady
from schemas.skeletons import LIMB_JOINTS

_OF_POSITION: Final = (
    "shift", "rate", "left_right", "left_right_arms", "left_right_legs", "x_y", "scale", "camera", "misfit",
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """When one explanation of positions is clearly better than another.

    Two explanations are compared where they disagree: on the joints that lie farther apart under them than `apart`. So
    a side view says nothing about left and right. The other explanation is clearly better when at least `rows` frames
    and `samples` joints tell; when its median error there is below `explains`, below `ratio` times that of the first
    and smaller by `gain`; and when it is nearer to the detection on more than `share` of those joints. Errors and
    distances are fractions of the person's size, the longer side of the tight box of the annotated joints.

    An exchange of arms or of legs alone is what a detector errs in itself, so more joints must tell (`part_share`),
    and it must be better than that of both sides by the factor `part_cost`.
    Another scale or place is fitted where the annotations as they are err by more than `gross` in the median, and must
    bring that below `placed`. Beyond `misfit`, annotations don't fit, whatever the reason: of rendered people, the
    embedded detector errs by 0.01 to 0.03 against their own annotations, by 0.17 to 0.42 against another action's.
    """

    apart: float = 0.03
    ratio: float = 0.6
    gain: float = 0.01
    share: float = 0.6
    part_share: float = 0.75
    part_cost: float = 1.25
    gross: float = 0.06
    placed: float = 0.06
    misfit: float = 0.12
    explains: float = 0.15
    rows: int = 5
    samples: int = 24
    cut: float = 0.3  # errors beyond it count as this much when explanations are ranked
    depth_factor: float = 10**0.5  # how near to 1000 or 1/1000 the ratio of depths must be
    most_rows: int = 500  # of a sequence that are looked at, evenly spaced


@dataclass(frozen=True)
class TimeRule:
    """When another time is clearly better; only the motion counts, as a constant offset of each joint is taken off.

    A shift is fitted with its 95 % interval (etl.alignment.timing). It is told to the frame when the interval reaches
    less than `told` frames to either side. It is a fault when it is nearer to one frame than to none and its
    interval stays more than `margin` frames away from none; and when either that is told to the frame, or to half of
    the shift, or the error is less than `ratio` times that of the annotations as they are. A rate is a fault when its
    interval lies beyond half an octave and its value within a quarter of an octave of 2 or 1/2.

    Of 311 clean stretches of 0.5 to 1.2 s of rendered people with the embedded detector none was called faulty.
    """

    margin: float = 0.25
    told: float = 0.75
    ratio: float = 0.6
    octaves: float = 0.5
    explains: float = 0.1  # median error without offsets, as a fraction of the person's size
    rows: int = 16
    moving: float = 0.75  # quantile of motion above which joints count as evidence
    sure: float = 1.5  # standard errors by which a shift of frames, or a rate, must fit better than what is simpler


SPACE: Final = Rule()
TIME: Final = TimeRule()


@dataclass(frozen=True)
class Finding:
    """A fault and its evidence.

    Parameters
    ----------
    fault : str
        A key of FAULTS.
    text : str
        In words.
    identity, best : float, optional
        Median error of the annotations as they are, and under the fault, as fractions of the person's size, on the
        joints that tell them apart. For ``depth_unit``: 1, and the median ratio of detected to true depth. None where
        the evidence is that of several sequences, and `best` where nothing explains the error.
    samples : int
        How many joints of how many frames told.
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
            return f"{self.text} (median over {self.samples} joints)"
        errors = f"error {self.best:.1%} of the person's size instead of {self.identity:.1%}"
        return f"{self.text} ({errors}, on {self.samples} joints that tell)"


@dataclass(frozen=True)
class Judgement:
    """What is said of one sequence.

    Parameters
    ----------
    findings : tuple of Finding
        At most one about positions, the best explanation or that there is none; and at most one about depth.
    timing : Timing, optional
        The fitted shift; None where it can't be fitted or something else is wrong.
    untold : mapping of str to str
        The faults that can neither be found nor excluded, with the reason.
    """

    findings: tuple[Finding, ...]
    timing: Timing | None
    untold: Mapping[str, str]


def judge_sequence(track: Track, cameras: Mapping[str, Track] | None = None) -> Judgement:
    """Find what explains the detections of one sequence clearly better than its annotations as they are.

    Parameters
    ----------
    track : Track
        The sequence.
    cameras : mapping of str to Track, optional
        The same recording before other cameras.
    """
    untold: dict[str, str] = {}
    found, timing = judge_positions(track, cameras or {}, untold)
    depth = judge_depth(track.detected_depth, track.true_depth, untold)
    return Judgement(tuple(finding for finding in (found, depth) if finding), timing, untold)


def judge_depth(detected: Floats, true: Floats, untold: dict[str, str], rule: Rule = SPACE) -> Finding | None:
    """Whether detected depths (...) and true depths (...) differ by a factor near 1000 or 1/1000 in the median."""
    told = np.isfinite(detected) & np.isfinite(true) & (detected > 0) & (true > 0)
    if told.sum() < rule.samples:
        untold["depth_unit"] = f"{told.sum()} joints with both depths, where {rule.samples} are needed"
        return None
    ratio = float(np.median(detected[told] / true[told]))
    for factor, text in ((1000.0, "detected depths are in mm"), (0.001, "annotated depths are in mm")):
        if factor / rule.depth_factor < ratio < factor * rule.depth_factor:
            evidence = f"{text}: detected depth is {ratio:.3g} times the true one"
            return Finding("depth_unit", evidence, 1.0, ratio, int(told.sum()))
    return None


def judge_positions(
    track: Track, cameras: Mapping[str, Track], untold: dict[str, str]
) -> tuple[Finding | None, Timing | None]:
    """The fault of position that explains the detections best, if it does so clearly better than the annotations do.

    Explanations that are clearly better are ranked by their mean error relative to that of the annotations as they are,
    on the joints that both have. No exchange or camera may fit better where a time says something, which can be half of
    the sequence. What nothing explains is a misfit.
    """
    rows = rows_to_judge(track, SPACE.most_rows)
    if len(rows) < SPACE.rows:
        reason = f"{len(rows)} frames with a detection and a usable annotation, where {SPACE.rows} are needed"
        untold |= dict.fromkeys(_OF_POSITION, reason)
        return None, None
    if not cameras:
        untold["camera"] = "no other camera of this recording"
    scene = _Scene(track, cameras, rows)
    others = list(exchanges(cameras))
    clear = [(hypothesis, finding) for hypothesis in others if (finding := scene.clear(hypothesis))]
    timing, late = scene.in_time(untold)
    if late and (scene.misfits(late[0]) or any(scene.fits_better(other, late[0]) for other in others)):
        late = None
    if late or (late := scene.elsewhere()):
        clear.append(late)
    if clear:
        # Where arms or legs alone fit hardly better, a side view hides the others, and both are exchanged.
        best, finding = min(clear, key=lambda p: scene.cost(p[0]) * (SPACE.part_cost if p[0].fault in ROOTS else 1))
        return finding, timing if best.fault == "shift" else None
    if scene.misfits(IDENTITY):
        return scene.misfit(), None
    for other in others:
        if not scene.clear(IDENTITY, other):
            untold[other.fault] = "the annotations as they are don't fit clearly better than these"
    return None, timing


class _Scene:
    """One sequence's rows, and how well each hypothesis explains them."""

    def __init__(self, track: Track, cameras: Mapping[str, Track], rows: Ints) -> None:
        self.track, self.cameras, self.rows = track, cameras, rows
        self.size = track.size[rows, None]
        self.detected = track.detected[rows][:, LIMB_JOINTS]
        self._joints: dict[Hypothesis, Floats] = {}

    def joints(self, hypothesis: Hypothesis) -> Floats:
        """(M, 12, 2) px: where the limb joints would be."""
        if hypothesis not in self._joints:
            joints = annotated_under(hypothesis, self.track, self.cameras, self.rows)
            self._joints[hypothesis] = joints[:, LIMB_JOINTS]
        return self._joints[hypothesis]

    def errors(self, first: Hypothesis, other: Hypothesis, *, offset: bool = True) -> tuple[Floats, Floats]:
        """(M, 12) fractions of the person's size under two hypotheses, NaN where either says nothing.

        Without the constant offset of each joint, that of the same rows, where `offset` is false.
        """
        mine, theirs = self.joints(first), self.joints(other)
        common = np.isfinite(mine + theirs + self.detected).all(-1, keepdims=True)

        def off(joints: Floats) -> Floats:
            joints = np.where(common, joints, np.nan)
            return relative_errors(self.detected if offset else steady(self.detected, joints), joints, self.size)

        # The person's size is that of the annotated joints, where these are put.
        return off(mine) / first.scale, off(theirs) / other.scale

    def clear(self, other: Hypothesis, first: Hypothesis = IDENTITY, rule: Rule = SPACE) -> Finding | None:
        """The evidence that `other` is clearly better than `first`, or None where it isn't."""
        mine, theirs = self.errors(first, other)
        told = np.linalg.norm(self.joints(other) - self.joints(first), axis=-1) / self.size > rule.apart
        told &= np.isfinite(theirs)
        if told.sum() < rule.samples or told.any(1).sum() < rule.rows:
            return None
        best, identity = float(np.median(theirs[told])), float(np.median(mine[told]))
        nearer = float((theirs < mine)[told].mean())
        share = rule.part_share if {first.fault, other.fault} & set(ROOTS) else rule.share
        if best >= min(rule.ratio * identity, identity - rule.gain, rule.explains) or nearer <= share:
            return None
        return Finding(other.fault, str(other), identity, best, int(told.sum()))

    def cost(self, hypothesis: Hypothesis, *, offset: bool = True) -> float:
        """Mean error relative to that of the annotations as they are, each error cut at `Rule.cut`."""
        mine, theirs = (np.minimum(errors, SPACE.cut) for errors in self.errors(IDENTITY, hypothesis, offset=offset))
        told = np.isfinite(theirs)
        return float(theirs[told].mean() / max(mine[told].mean(), 1e-9)) if told.any() else np.inf

    def fits_better(self, rival: Hypothesis, hypothesis: Hypothesis) -> bool:
        """Whether `rival` fits better on the joints about which `hypothesis` says something."""
        mine, theirs = (np.minimum(errors, SPACE.cut) for errors in self.errors(hypothesis, rival))
        return bool(np.nansum(theirs) < np.nansum(mine))

    def median(self, hypothesis: Hypothesis) -> float:
        """Median error of the limb joints, where the hypothesis says something."""
        errors = self.errors(IDENTITY, hypothesis)[1]
        told = errors[np.isfinite(errors)]
        return float(np.median(told)) if len(told) >= SPACE.samples else np.nan

    def misfits(self, hypothesis: Hypothesis) -> bool:
        """Whether detections and annotations have nothing to do with each other under a hypothesis."""
        return self.median(hypothesis) >= SPACE.misfit

    def misfit(self) -> Finding:
        """That the annotations don't fit, in numbers."""
        error, count = self.median(IDENTITY), int(np.isfinite(self.errors(IDENTITY, IDENTITY)[0]).sum())
        words = f"the annotations don't fit, and no known fault explains it: error {error:.0%} of the person's size"
        return Finding("misfit", f"{words} in the median of {count} joints", error, samples=count)

    def elsewhere(self) -> tuple[Hypothesis, Finding] | None:
        """Another scale or place in the image, if the annotations don't fit as they are and do so there."""
        if not self.median(IDENTITY) >= SPACE.gross:
            return None
        found = [h for h in scales(self.detected, self.joints(IDENTITY)) if h.scale > 0.1]
        best = min(found, key=lambda h: self.cost(h) * (1.25 if any(h.offset) else 1.0))
        finding = self.clear(best, rule=replace(SPACE, explains=SPACE.placed))
        return (best, finding) if finding else None

    def in_time(self, untold: dict[str, str]) -> tuple[Timing | None, tuple[Hypothesis, Finding] | None]:
        """The shift, and the finding if it or a rate is a fault."""
        within = shifts(self.track)
        best = min((Hypothesis("shift", k) if k else IDENTITY for k in within), key=self._cost_in_time)
        timing = fit(self.track, self.rows, best.shift)
        faster = self._rate(best, within)
        if faster:
            return None, faster
        if timing is None or timing.rows < TIME.rows:
            rows = len(self.rows) if timing is None else timing.rows
            few = f"{rows} frames tell, where {TIME.rows} are needed"
            untold |= dict.fromkeys(("shift", "rate"), few if rows < TIME.rows else "no motion that can be compared")
            return None, None
        shift = timing.shift
        named = Hypothesis("shift", round(shift.value), about=shift.half >= TIME.told)
        if named.shift and shift.least > TIME.margin:
            finding = self._finding(named, f"fitted {shift} frames")
            sharp = shift.half < max(TIME.told, abs(shift.value) / 2)
            sure = abs(named.shift) == 1 or self._surely(IDENTITY, named)
            if finding and sure and (sharp or (finding.best or np.inf) < TIME.ratio * (finding.identity or 0.0)):
                return timing, (named, finding)
        if named.shift or shift.half >= TIME.told:
            untold["shift"] = f"the motion tells it to {shift} frames only"
        return timing, None

    def _rate(self, best: Hypothesis, within: list[int]) -> tuple[Hypothesis, Finding] | None:
        """Another rate, if it is clearly better than the best shift."""
        every = [Hypothesis("rate", k, rate) for rate in (2.0, 0.5) for k in within]
        other = min(every, key=lambda h: self._cost_in_time(h) * (1.25 if h.shift else 1.0))
        if self._cost_in_time(other) >= self._cost_in_time(best):
            return None
        timing = fit(self.track, self.rows, other.shift, other.rate, free_rate=True)
        if timing is None or timing.rate is None or timing.rate.value <= 0:
            return None
        octaves = abs(np.log2(timing.rate.value)) - timing.rate.half / (timing.rate.value * np.log(2))
        off = abs(np.log2(timing.rate.value / other.rate))
        if timing.rows < TIME.rows or octaves < TIME.octaves or off > TIME.octaves / 2 or not self._surely(best, other):
            return None
        finding = self._finding(other, f"fitted rate {timing.rate.value:.2f} ± {timing.rate.half:.2f}")
        return (other, finding) if finding else None

    def _cost_in_time(self, hypothesis: Hypothesis) -> float:
        return self.cost(hypothesis, offset=False)

    def _surely(self, first: Hypothesis, other: Hypothesis) -> bool:
        """Whether `other` explains the motion better than `first` by more than chance."""
        mine, theirs = (np.minimum(errors, SPACE.cut) for errors in self.errors(first, other, offset=False))
        told = np.isfinite(theirs).all(1)
        return significance((mine - theirs)[told].mean(1)) > TIME.sure

    def _finding(self, hypothesis: Hypothesis, fitted: str) -> Finding | None:
        """The evidence for another time, of the joints that move most; None where the fit is poor."""
        mine, theirs = self.errors(IDENTITY, hypothesis, offset=False)
        moved = np.where(
            np.isfinite(theirs), np.linalg.norm(self.joints(hypothesis) - self.joints(IDENTITY), axis=-1), 0
        )
        told = moved > np.quantile(moved, TIME.moving)
        if not told.any() or np.median(theirs[told]) >= TIME.explains:
            return None
        medians = float(np.median(mine[told])), float(np.median(theirs[told]))
        return Finding(hypothesis.fault, f"{hypothesis}, {fitted}", *medians, int(told.sum()))
