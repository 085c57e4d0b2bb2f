"""What annotate found and made: one JSON file beside the annotations."""

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
MOST_KINDS: Final = 12  # kinds of notes that are told
# What differs between notes that say the same of several sequences: paths and numbers.
_PARTICULARS: Final = re.compile(r"\S*/\S*|\d+(\.\d+)?")


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one sequence.

    Parameters
    ----------
    split : str
        Its split.
    rows : int
        Rows of its file: one a frame and annotated person.
    identity : str
        What it was made from: raw files, options, version.
    notes : tuple of str
        What its reader noted.
    labelled : bool
        Whether it has ground truth.
    joint_source : str
        Where its joints come from.
    checks : dict of str to figures
        What its reader measured: see etl.datasets.geometry.
    """

    split: str
    rows: int
    identity: str
    notes: tuple[str, ...] = ()
    labelled: bool = True
    joint_source: str = ""
    checks: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, ds: xr.Dataset) -> Entry:
        """That of an annotation dataset."""
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
    """What annotate found and made in a folder.

    Parameters
    ----------
    dataset : str
        Name of the dataset.
    sequences : dict of str to Entry
        By the sequence's path, of all files in the folder, those of earlier runs too.
    failures : dict of str to str
        Reason by the sequence's path, of this run.
    notes : list of str
        What the reader left out.
    made : int
        Files written by this run.
    earlier : dict of str to str
        Failures of earlier runs, of sequences that this run wasn't about.
    """

    dataset: str
    sequences: dict[str, Entry]
    failures: dict[str, str]
    notes: list[str] = field(default_factory=list)
    made: int = 0
    earlier: dict[str, str] = field(default_factory=dict)

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
        """What stands in FILE."""
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
    """Entries of the folder's manifest whose files are there; none where it is absent or damaged."""
    try:
        entries = {
            str(path): Entry(**(values | {"notes": tuple(values["notes"])}))
            for path, values in _read(folder)["sequences"].items()
        }
    except (KeyError, TypeError, AttributeError):
        entries = {}  # the files themselves say what they were made from
    return {path: entry for path, entry in entries.items() if (folder / path).is_file()}


def read_failures(folder: Path) -> dict[str, str]:
    """Failures by the sequence's path; none where the manifest is absent or damaged."""
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
    """Notes on sequences, by sequence, in as few lines as there are kinds: of each kind the first, and how many more.

    Notes that differ in numbers and paths only are of one kind. The commonest MOST_KINDS come first.
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
