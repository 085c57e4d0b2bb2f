"""The manifest of an annotation folder: one JSON file beside the annotations."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import xarray as xr

from schemas import annotation
from schemas.keys import SequenceKey

VERSION: Final = 2  # of annotate; raise it when the same raw files give other annotations
FILE: Final = "manifest.json"
COUNTED: Final = ("split", "subject", "action", "camera")
MOST_KINDS: Final = 12  # kinds of notes that are shown
# Paths and numbers, in which notes of the same kind differ.
_PARTICULARS: Final = re.compile(r"\S*/\S*|\d+(\.\d+)?")


@dataclass(frozen=True)
class Entry:
    """One sequence in the manifest."""

    split: str
    rows: int  # one for each frame and annotated person
    identity: str  # hash of its raw files, options and version
    notes: tuple[str, ...] = ()  # of its reader
    labelled: bool = True  # whether it has ground truth
    joint_source: str = ""
    checks: dict[str, Any] = field(default_factory=dict)  # measured by its reader: see etl.datasets.geometry

    @classmethod
    def of(cls, ds: xr.Dataset) -> Entry:
        """Entry of an annotation dataset."""
        provenance = json.loads(ds.attrs["provenance"])
        return cls(
            split=ds.attrs["split"],
            rows=ds.sizes["frame"],
            identity=provenance.get("identity", ""),
            notes=tuple(map(str, provenance.get("notes", ()))),
            labelled=annotation.has_ground_truth(ds),
            joint_source=ds.attrs["joint_source"],
            checks=provenance.get("checks", {}),
        )


@dataclass(frozen=True)
class Manifest:
    """Content of an annotation folder, and the result of a run of annotate."""

    dataset: str
    sequences: dict[str, Entry]  # by the sequence's path; all files in the folder, of earlier runs too
    failures: dict[str, str]  # reason by the sequence's path, of this run
    notes: list[str] = field(default_factory=list)  # of the reader on what it left out
    made: int = 0  # files written by this run
    earlier: dict[str, str] = field(default_factory=dict)  # failures of earlier runs, in sequences not in this one

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Sequences and rows per split, subject, action and camera."""
        found: dict[str, dict[str, dict[str, int]]] = {name: {} for name in COUNTED}
        for path, entry in sorted(self.sequences.items()):
            key = SequenceKey.from_path(self.dataset, path.removesuffix(".nc"))
            for name in COUNTED:
                value = entry.split if name == "split" else str(getattr(key, name))
                count = found[name].setdefault(value, {"sequences": 0, "rows": 0})
                count["sequences"] += 1
                count["rows"] += entry.rows
        return found

    def to_json(self) -> str:
        """Content of FILE."""
        content = {
            "dataset": self.dataset,
            "version": VERSION,
            "counts": self.counts(),
            "failures": self.earlier | self.failures,
            "notes": self.notes,
            "sequences": {path: dataclasses.asdict(entry) for path, entry in sorted(self.sequences.items())},
        }
        return json.dumps(content, indent=1)


def read_entries(folder: Path) -> dict[str, Entry]:
    """Entries of the folder's manifest whose files exist; none if it is missing or damaged."""
    try:
        entries = {
            str(path): Entry(**(values | {"notes": tuple(values["notes"])}))
            for path, values in _read(folder)["sequences"].items()
        }
    except (KeyError, TypeError, AttributeError):
        entries = {}  # the files have the same facts
    return {path: entry for path, entry in entries.items() if (folder / path).is_file()}


def read_failures(folder: Path) -> dict[str, str]:
    """Failures by the sequence's path; none if the manifest is missing or damaged."""
    try:
        return {str(path): str(reason) for path, reason in _read(folder)["failures"].items()}
    except (KeyError, TypeError, AttributeError):
        return {}


def _read(folder: Path) -> Any:
    try:
        return json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}


def summarise(notes: Mapping[str, SequenceOf[str]]) -> list[str]:
    """Summarise notes by sequence: one line for each kind, with the first note and the number of others.

    Notes that differ only in numbers and paths are of one kind. The MOST_KINDS most frequent kinds are listed.
    """
    kinds: dict[str, dict[str, str]] = {}
    for sequence, texts in notes.items():
        for text in texts:
            kinds.setdefault(_PARTICULARS.sub("", text), {}).setdefault(sequence, text)
    ordered = sorted(kinds.values(), key=len, reverse=True)
    lines = []
    for found in ordered[:MOST_KINDS]:
        (sequence, text), others = next(iter(found.items())), len(found) - 1
        more = f" (and the like of {others:,} more sequence{'s' * (others > 1)})" if others else ""
        lines.append(f"{sequence}: {text}{more}")
    if len(ordered) > MOST_KINDS:
        lines.append(f"{len(ordered) - MOST_KINDS} more kinds of notes are in {FILE}, beside the annotations")
    return lines
