"""Selections of a dataset by name, and how complete they are."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import QueryError
from schemas.keys import SequenceKey

Names = str | Sequence[str] | NDArray[np.str_] | None
Numbers = int | np.integer[Any] | slice | Sequence[int] | NDArray[np.integer[Any]] | None


@dataclass(frozen=True)
class Completeness:
    """Completeness of a selection.

    Parameters
    ----------
    annotated : int or None
        Rows that the annotations name, one a frame and person; None where there are no annotations any more.
    finished, ok : int
        Rows with features, and those of status ok.
    partitions : int
        Finished files.
    lost : tuple of str
        Files that were finished and now are gone, or can't be read.
    """

    annotated: int | None
    finished: int
    ok: int
    partitions: int
    lost: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every annotated row has been tried."""
        return self.annotated is not None and self.finished >= self.annotated

    def __str__(self) -> str:
        parts = f"{self.partitions:,} finished partitions"
        if self.annotated is None:
            text = f"{self.finished:,} frames in {parts}, {self.ok:,} ok"
        elif self.complete:
            text = f"complete: {self.finished:,} frames in {parts}, {self.ok:,} ok"
        else:
            share = self.finished / self.annotated
            text = f"{self.finished:,} of {self.annotated:,} frames ({share:.0%}) in {parts}, {self.ok:,} ok so far"
        if self.lost:
            text += f"; {len(self.lost):,} damaged or lost: {self.lost[0]}{' …' if len(self.lost) > 1 else ''}"
        return text


def is_open(chosen: Names | Numbers) -> bool:
    """Whether nothing is chosen: None, or a list or array without any."""
    return chosen is None or (not isinstance(chosen, str | int | np.integer | slice) and len(chosen) == 0)


def fits(value: str | int, chosen: Any) -> bool:
    """Whether a sequence's name, or number, is one of those chosen."""
    if isinstance(chosen, slice):
        if isinstance(value, str):
            raise QueryError(
                "Names must be chosen by name or pattern.", f"{chosen}", "Give a list, or a pattern: 'S*'."
            )
        low, high = chosen.start, chosen.stop
        return (low is None or value >= low) and (high is None or value <= high)
    patterns = [chosen] if isinstance(chosen, str | int | np.integer) else list(chosen)
    return any(value == pattern or fnmatch.fnmatchcase(str(value), str(pattern)) for pattern in patterns)


def in_words(chosen: Any) -> str:
    """Describe a choice, for messages."""
    if isinstance(chosen, slice):
        return f"{chosen.start} to {chosen.stop}"
    return str(chosen) if isinstance(chosen, str | int | np.integer) else ", ".join(map(str, chosen))


def parse_frames(text: str) -> slice:
    """Frames from words: FIRST:LAST or FIRST:LAST:STEP, each of which may be left out; one number is one frame.

    Raises
    ------
    QueryError
        When it is something else.
    """
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        return slice(parts[0], parts[0])
    if len(parts) not in (2, 3):
        raise QueryError("Frames must be FIRST:LAST or FIRST:LAST:STEP.", repr(text), "Give them like 0:499 or ::25.")
    return slice(*parts)


def frame_range(path: str) -> tuple[int, int]:
    """First and last frame number that a feature file's name says."""
    first, _, last = path.rpartition("/")[2].partition("_")[0].partition("-")
    return int(first), int(last)


def in_lines(
    dataset: str, counts: Collection[Mapping[str, int]], keys: Collection[SequenceKey], *, filtered: bool
) -> str:
    """Describe a selection in a few lines.

    Parameters
    ----------
    dataset : str
        Name of the dataset.
    counts : collection of mapping of str to int
        Rows by status, of each file.
    keys : collection of SequenceKey
        Sequences of the selection.
    filtered : bool
        Whether only some rows of the files are chosen.
    """
    rows = sum((Counter(each) for each in counts), Counter[str]())
    states = ", ".join(f"{n:,} {name}" for name, n in rows.most_common()) or "none finished"
    lines = [f"Features of {dataset}: {len(counts):,} files, {rows.total():,} rows ({states})"]
    for name in ("subject", "action", "camera"):
        values = sorted({str(getattr(key, name)) for key in keys})
        more = f", … ({len(values):,})" if len(values) > 8 else ""
        lines.append(f"  {name + 's':<9} {', '.join(values[:8])}{more}")
    return "\n".join([*lines, *(["  rows      chosen by status, frame or condition"] if filtered else [])])
