"""The alignment judge on files: merge asks it whether detections and annotations belong together.

Every sequence gets a verdict: the faults by the rules of `etl.alignment.fit`, and what its motion is too little to
tell. A shift that one short sequence can't tell may be told by all of a recording, a camera, a subject or a dataset
together, since readers and releases err systematically.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from etl.alignment.fit import SPACE, TIME, Finding, judge_sequence
from etl.alignment.hypotheses import Hypothesis
from etl.alignment.timing import Estimate, pooled
from etl.alignment.tracks import Track, relative_errors, rows_to_judge
from etl.errors import MergeError
from etl.stages.join import SequenceFiles, key_of, match, names_of, opened, rows_of
from etl.store.netcdf import read_array
from etl.store.workspace import write_atomically
from schemas import annotation, features
from schemas.features import Status
from schemas.keys import SequenceKey
from schemas.skeletons import LIMB_JOINTS

SCHEMA: Final = "xycd judge 3"
FILE: Final = "judge.json"  # in <workspace>/<dataset>


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one sequence.

    Parameters
    ----------
    sequence : str
        Its key, as words.
    path : str
        Its key, as a relative path.
    rows : int
        Rows with a detection and a usable annotation that were looked at.
    error : float
        Median error of the 12 limb joints as annotated, fraction of the person's size; NaN without rows.
    findings : tuple of Finding
        Empty where the identity is the best explanation, or nothing can be told.
    shift : Estimate, optional
        Frames by which the annotations lie behind the detected motion; None where the motion can't be compared.
    untold : mapping of str to str
        The faults that could neither be found nor excluded, with the reason. They are no alarm.
    """

    sequence: str
    path: str
    rows: int
    error: float
    findings: tuple[Finding, ...] = ()
    shift: Estimate | None = None
    untold: Mapping[str, str] = field(default_factory=dict)

    @property
    def aligned(self) -> bool:
        """Whether enough frames were looked at, and nothing was found."""
        return self.rows >= SPACE.rows and not self.findings

    @property
    def word(self) -> str:
        """In a word or two: the faults; or that there are none, or too few frames to tell."""
        if self.findings:
            return ", ".join(finding.fault for finding in self.findings)
        return "aligned" if self.aligned else "not judged"

    def __str__(self) -> str:
        return f"{self.sequence}: {'; '.join(map(str, self.findings)) or self.word}"


def judge_files(pairs: Sequence[SequenceFiles]) -> list[Verdict]:
    """Judge sequences from their files; the cameras of one recording are compared with each other.

    Parameters
    ----------
    pairs : sequence of SequenceFiles
        The sequences with ground truth, of all splits.

    Returns
    -------
    list of Verdict
        One a sequence, in the order of their keys.

    Raises
    ------
    etl.errors.MergeError
        When a file can't be read.
    """
    recordings: dict[tuple[str, str, str, int], dict[str, SequenceFiles]] = {}
    for pair in pairs:
        key = _key_of(pair.annotation)
        recordings.setdefault((key.dataset, key.subject, key.action, key.subaction), {})[key.camera] = pair
    verdicts: dict[SequenceKey, Verdict] = {}
    for recording, views in sorted(recordings.items()):
        # One recording at a time: memory doesn't grow with the dataset.
        tracks = {camera: read_track(pair) for camera, pair in sorted(views.items())}
        for camera, track in tracks.items():
            others = {name: other for name, other in tracks.items() if name != camera}
            judgement = judge_sequence(track, others)
            rows = rows_to_judge(track, SPACE.most_rows)
            errors = relative_errors(track.detected[rows], track.annotated[rows], track.size[rows, None])
            told = errors[:, LIMB_JOINTS][np.isfinite(errors[:, LIMB_JOINTS])]
            error = float(np.median(told)) if told.size else float("nan")
            key = SequenceKey(*recording, camera)
            shift = judgement.timing.shift if judgement.timing else None
            verdicts[key] = Verdict(
                str(key), key.path.as_posix(), len(rows), error, judgement.findings, shift, judgement.untold
            )
    return list(systematic(verdicts).values())


def systematic(verdicts: Mapping[SequenceKey, Verdict]) -> dict[SequenceKey, Verdict]:
    """Name the shift that sequences have together, where each for itself leaves it open.

    Parameters
    ----------
    verdicts : mapping of SequenceKey to Verdict
        One a sequence, each judged for itself.

    Returns
    -------
    dict of SequenceKey to Verdict
        The same, with a finding more where the shifts of a group agree on a fault and the sequence's own fits that.
    """
    groups: dict[tuple[str, ...], list[Estimate]] = {}
    for key, verdict in verdicts.items():
        if verdict.shift is not None:
            for group in _groups(key):
                groups.setdefault(group, []).append(verdict.shift)
    together = {group: (pooled(shifts), len(shifts)) for group, shifts in groups.items()}
    result = dict(verdicts)
    for key, verdict in verdicts.items():
        own = verdict.shift
        if own is None or verdict.findings or "shift" not in verdict.untold:
            continue
        for group in _groups(key):
            common, count = together[group]
            if common is None or common.least <= TIME.margin or common.half >= TIME.told:
                continue
            named = Hypothesis("shift", round(common.value))
            if named.shift and abs(own.value - common.value) <= own.half:
                words = f"{named}, fitted {common} frames over {count} sequences of {' '.join(group[1:])}"
                untold = {fault: reason for fault, reason in verdict.untold.items() if fault != "shift"}
                result[key] = replace(verdict, findings=(Finding("shift", words),), untold=untold)
                break
    return result


def _groups(key: SequenceKey) -> list[tuple[str, ...]]:
    """What may share a fault with a sequence, the smallest first."""
    recording = ("recording", key.subject, key.action, str(key.subaction))
    return [recording, ("camera", key.camera), ("subject", key.subject), ("dataset", key.dataset)]


def read_track(files: SequenceFiles) -> Track:
    """Detections and annotations of a sequence, joined on person and frame.

    Raises
    ------
    etl.errors.MergeError
        When a file can't be read.
    """
    with opened(files.annotation, f"xycd annotation {annotation.VERSION}", "annotate") as ds:
        rows = rows_of(ds)
        usable = read_array(ds, "valid_annotation").astype(bool)
        annotated = read_array(ds, "keypoints_2d").astype(np.float64)
        true_depth = read_array(ds, "keypoints_3d")[..., 2].astype(np.float64)
    annotated[~usable] = np.nan
    detected = np.full(annotated.shape, np.nan)
    depth = np.full(true_depth.shape, np.nan)
    for path in files.features:
        with opened(path, f"xycd features {features.VERSION}", "estimate") as ds:
            target = match(rows, rows_of(ds)).target
            good = (target >= 0) & (read_array(ds, "status") == Status.OK)
            values = read_array(ds, "features").astype(np.float64)[good]
            names = names_of(ds)
            detected[target[good]] = values[..., [names.index("x"), names.index("y")]]
            depth[target[good]] = values[..., names.index("depth")]
    return Track(rows[:, 1], rows[:, 0], annotated, detected, true_depth, depth)


def _key_of(path: Path) -> SequenceKey:
    with opened(path, f"xycd annotation {annotation.VERSION}", "annotate") as ds:
        return key_of(ds)


def faulty(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those with a finding."""
    return [verdict for verdict in verdicts if verdict.findings]


def not_judged(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those of which nothing can be said: too few frames with a detection and a usable annotation."""
    return [verdict for verdict in verdicts if not verdict.findings and not verdict.aligned]


def left_open(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Of how many of the judged sequences each fault could neither be found nor excluded."""
    judged = (verdict for verdict in verdicts if verdict.findings or verdict.aligned)
    counts = Counter(fault for verdict in judged for fault in verdict.untold)
    return dict(sorted(counts.items()))


def notes(verdicts: Sequence[Verdict]) -> list[str]:
    """What the one who merges should know, a line each: the faulty, those not judged, and what is left open."""
    found = [f"misaligned: {verdict}" for verdict in faulty(verdicts)]
    if few := not_judged(verdicts):
        found.append(f"alignment: {len(few)} of {len(verdicts)} sequences have too few frames to be judged")
    if still := left_open(verdicts):
        words = ", ".join(f"{fault.replace('_', ' ')} {count}" for fault, count in still.items())
        found.append(f"alignment: left open of {len(verdicts)} sequences: {words}")
    return found


def refuse(verdicts: Sequence[Verdict]) -> None:
    """Raise where a sequence has a finding.

    Raises
    ------
    etl.errors.MergeError
        Naming the sequences with their evidence.
    """
    bad = faulty(verdicts)
    if bad:
        shown = "; ".join(map(str, bad[:5])) + (f"; and {len(bad) - 5} more, see judge.json" if len(bad) > 5 else "")
        raise MergeError(
            "Detections agree best with the annotations of their own sequence and frame.",
            f"{len(bad)} of {len(verdicts)} sequences that don't: {shown}",
            'Fix the raw files or leave those sequences out, or set merge.judge to "warn" to merge them all the same.',
        )


def write_verdicts(verdicts: Sequence[Verdict], path: Path, *, annotations: str, features: str) -> None:
    """Write verdicts as JSON, whole or not at all.

    Parameters
    ----------
    verdicts : sequence of Verdict
        One a sequence.
    path : Path
        The file.
    annotations, features : str
        Keys of what was judged.
    """
    entries = [asdict(v) | {"error": v.error if np.isfinite(v.error) else None} for v in verdicts]
    content = {"schema": SCHEMA, "annotations": annotations, "features": features, "verdicts": entries}
    write_atomically(path, json.dumps(content, indent=1).encode())


def read_verdicts(path: Path, *, annotations: str, features: str) -> list[Verdict]:
    """Read what `write_verdicts` wrote of these annotations and features.

    Empty where there is no such file, or one of other annotations or features, or of older code.
    """
    if not path.exists():
        return []
    content: dict[str, Any] = json.loads(path.read_text())
    about = {"schema": SCHEMA, "annotations": annotations, "features": features}
    if any(content.get(name) != value for name, value in about.items()):
        return []
    found = []
    for entry in content["verdicts"]:
        findings = tuple(Finding(**finding) for finding in entry["findings"])
        error = float("nan") if entry["error"] is None else entry["error"]
        shift = entry["shift"] and Estimate(**entry["shift"])
        found.append(Verdict(**{**entry, "findings": findings, "error": error, "shift": shift}))
    return found
