"""Judge the alignment of sequences from their files, and write and read the verdicts.

Merge refuses sequences whose detections do not belong to their annotations (etl.alignment.fit has the rules).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from etl.alignment.fit import MAX_ROWS, MIN_ROWS, Finding, judge_sequence
from etl.alignment.timing import Estimate
from etl.alignment.tracks import Track, relative_errors, rows_to_judge
from etl.errors import MergeError
from etl.stages.join import SequenceFiles, key_of, match, names_of, opened, rows_of
from etl.store.netcdf import read_array
from etl.store.workspace import write_atomically
from schemas import annotation, features
from schemas.features import Status
from schemas.keys import SequenceKey
from schemas.skeletons import LIMB_JOINTS

SCHEMA: Final = "xycd judge 4"
FILE: Final = "judge.json"  # in <workspace>/<dataset>


@dataclass(frozen=True)
class SequenceVerdict:
    """Result of the judge for one sequence.

    Parameters
    ----------
    sequence : str
        Its key in words.
    path : str
        Its key, as a relative path.
    rows : int
        Rows with a detection and a usable annotation that were looked at.
    error : float
        Median error of the 12 limb joints as annotated, fraction of the person's size; NaN without rows.
    findings : tuple of Finding
        Empty if nothing was found.
    shift : Estimate, optional
        Frames by which the annotations lag behind the detected motion; None if the motion cannot be compared.
    untold : mapping of str to str
        Faults that can neither be found nor excluded, with the reason.
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
        """Whether enough frames were judged, and nothing was found."""
        return self.rows >= MIN_ROWS and not self.findings

    @property
    def word(self) -> str:
        """The faults; else "aligned", or "not judged" if there are too few frames."""
        if self.findings:
            return ", ".join(finding.fault for finding in self.findings)
        return "aligned" if self.aligned else "not judged"

    def __str__(self) -> str:
        return f"{self.sequence}: {'; '.join(map(str, self.findings)) or self.word}"


def judge_files(pairs: Sequence[SequenceFiles]) -> list[SequenceVerdict]:
    """Judge sequences from their files; the cameras of one recording are compared with each other.

    Parameters
    ----------
    pairs : sequence of SequenceFiles
        The sequences with ground truth, of all splits.

    Returns
    -------
    list of SequenceVerdict
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
    verdicts: dict[SequenceKey, SequenceVerdict] = {}
    for recording, views in sorted(recordings.items()):
        # One recording at a time: memory doesn't grow with the dataset.
        tracks = {camera: read_track(pair) for camera, pair in sorted(views.items())}
        for camera, track in tracks.items():
            others = {name: other for name, other in tracks.items() if name != camera}
            judgement = judge_sequence(track, others)
            rows = rows_to_judge(track, MAX_ROWS)
            errors = relative_errors(track.detected[rows], track.annotated[rows], track.size[rows, None])
            finite = errors[:, LIMB_JOINTS][np.isfinite(errors[:, LIMB_JOINTS])]
            error = float(np.median(finite)) if finite.size else float("nan")
            key = SequenceKey(*recording, camera)
            shift = judgement.timing.shift if judgement.timing else None
            verdicts[key] = SequenceVerdict(
                str(key), key.path.as_posix(), len(rows), error, judgement.findings, shift, judgement.untold
            )
    return list(verdicts.values())


def read_track(files: SequenceFiles) -> Track:
    """Read the detections and annotations of a sequence, joined on person and frame.

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


def faulty(verdicts: Sequence[SequenceVerdict]) -> list[SequenceVerdict]:
    """Verdicts with a finding."""
    return [verdict for verdict in verdicts if verdict.findings]


def not_judged(verdicts: Sequence[SequenceVerdict]) -> list[SequenceVerdict]:
    """Verdicts of sequences with too few frames that have a detection and a usable annotation."""
    return [verdict for verdict in verdicts if not verdict.findings and not verdict.aligned]


def left_open(verdicts: Sequence[SequenceVerdict]) -> dict[str, int]:
    """Number of judged sequences for which each fault can neither be found nor excluded."""
    judged = (verdict for verdict in verdicts if verdict.findings or verdict.aligned)
    counts = Counter(fault for verdict in judged for fault in verdict.untold)
    return dict(sorted(counts.items()))


def notes(verdicts: Sequence[SequenceVerdict]) -> list[str]:
    """One line for each misaligned sequence, for those not judged, and for the open questions."""
    found = [f"misaligned: {verdict}" for verdict in faulty(verdicts)]
    if few := not_judged(verdicts):
        found.append(f"alignment: {len(few)} of {len(verdicts)} sequences have too few frames to be judged")
    if still := left_open(verdicts):
        words = ", ".join(f"{fault.replace('_', ' ')} {count}" for fault, count in still.items())
        found.append(f"alignment: left open of {len(verdicts)} sequences: {words}")
    return found


def refuse(verdicts: Sequence[SequenceVerdict]) -> None:
    """Raise an error if a sequence has a finding.

    Raises
    ------
    etl.errors.MergeError
        Names the sequences and their evidence.
    """
    bad = faulty(verdicts)
    if bad:
        shown = "; ".join(map(str, bad[:5])) + (f"; and {len(bad) - 5} more, see judge.json" if len(bad) > 5 else "")
        raise MergeError(
            "Detections agree best with the annotations of their own sequence and frame.",
            f"{len(bad)} of {len(verdicts)} sequences that don't: {shown}",
            'Fix the raw files or leave those sequences out, or set merge.judge = "warn".',
        )


def write_verdicts(verdicts: Sequence[SequenceVerdict], path: Path, *, annotations: str, features: str) -> None:
    """Write verdicts as JSON, atomically.

    Parameters
    ----------
    verdicts : sequence of SequenceVerdict
        One a sequence.
    path : Path
        The file.
    annotations, features : str
        Keys of the judged annotations and features.
    """
    entries = [asdict(v) | {"error": v.error if np.isfinite(v.error) else None} for v in verdicts]
    content = {"schema": SCHEMA, "annotations": annotations, "features": features, "verdicts": entries}
    write_atomically(path, json.dumps(content, indent=1).encode())


def read_verdicts(path: Path, *, annotations: str, features: str) -> list[SequenceVerdict]:
    """Read the verdicts on these annotations and features.

    Empty if there is no file, or if it is about other annotations or features, or has another schema.
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
        found.append(SequenceVerdict(**{**entry, "findings": findings, "error": error, "shift": shift}))
    return found
