"""The interface of a dataset: which sequences there are, and the annotation of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import xarray as xr

from etl.errors import DatasetError
from etl.media.frames import Media
from schemas.camera import Camera
from schemas.keys import SequenceKey


@dataclass(frozen=True)
class Sequence:
    """One subject doing one action before one camera: what a listing knows without reading poses.

    Parameters
    ----------
    key : SequenceKey
        Canonical identity.
    split : str
        ``train``, ``val``, ``validation`` or ``test``; for media without splits ``all``.
    release_name : str
        The release's own name, e.g. ``Directions 1.54138969``.
    media : Media
        What holds the frames, relative to the dataset's root.
    camera : Camera, optional
        None where unknown.
    files : mapping of str to str
        Paths, relative to the root, of the raw files that `annotate` reads for this sequence.
    """

    key: SequenceKey
    split: str
    release_name: str
    media: Media
    camera: Camera | None = None
    files: Mapping[str, str] = field(default_factory=dict)


def select(
    found: Iterable[Sequence],
    *,
    subjects: Collection[str] | None = None,
    actions: Collection[str] | None = None,
    cameras: Collection[str] | None = None,
) -> list[Sequence]:
    """Sequences with one of the subjects, actions and cameras named, in order of their keys; None takes all.

    Raises
    ------
    DatasetError
        When there is none.
    """
    found = sorted(found, key=lambda sequence: sequence.key)
    wanted = {"subject": subjects, "action": actions, "camera": cameras}
    kept = [s for s in found if all(n is None or getattr(s.key, part) in n for part, n in wanted.items())]
    if not kept:
        asked = "; ".join(f"{part} {', '.join(names)}" for part, names in wanted.items() if names is not None)
        there = "; ".join(f"{part} {', '.join(sorted({getattr(s.key, part) for s in found}))}" for part in wanted)
        raise DatasetError(
            f"The folder holds sequences of what is asked for: {asked or 'anything'}.",
            f"none; there are {there}" if found else "none at all",
            "Ask for others, or unpack more of the release.",
        )
    return kept


class DatasetReader(Protocol):
    """Reads one dataset as its owners release it."""

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]

    def sequences(self) -> list[Sequence]:
        """All sequences found, in order of their keys.

        Raises
        ------
        etl.errors.DatasetError
            When the folder is absent or has none of the known layouts.
        """
        ...

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        """The annotation dataset (schemas.annotation) of one sequence, at the rate asked for.

        Raises
        ------
        etl.errors.DatasetError
            When the sequence's raw files are not what the release says.
        """
        ...
