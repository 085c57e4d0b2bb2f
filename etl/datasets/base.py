"""The interface of a dataset: which sequences there are, and how each is annotated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import xarray as xr

from etl.errors import DatasetError
from etl.media.frames import Media
from schemas import annotation
from schemas.camera import Camera
from schemas.keys import SequenceKey


@dataclass(frozen=True)
class Sequence:
    """One subject doing one action before one camera, as listed without reading poses.

    Parameters
    ----------
    key : SequenceKey
        Canonical identity.
    split : str
        ``train``, ``val``, ``validation`` or ``test``; for media without splits ``all``.
    release_name : str
        The release's own name, e.g. ``Directions 1.54138969``.
    media : Media
        The video or images with the frames, relative to the dataset's root.
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


@dataclass(frozen=True)
class DatasetReader(ABC):
    """Base of all readers: reads one dataset as its owners release it.

    A reader is a frozen dataclass whose fields are its options, so that it can be compared, copied with other options
    and sent to other processes. It sets the class attributes `name` and `splits`, and implements `sequences` and
    `annotate`.

    Parameters
    ----------
    root : Path
        Folder of the raw dataset. Paths in a `Sequence` are relative to it: the sizes and times of the files found
        there decide whether an annotation is up to date.

    Attributes
    ----------
    name : str
        Name of the dataset, the first part of its sequences' keys.
    splits : tuple of str
        All splits that `sequences` may give.
    filters : mapping of str to object
        Options that only choose sequences, with the value that chooses all. All other options except `root` are
        recorded as part of each annotation's identity, so changing one annotates again.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    filters: ClassVar[Mapping[str, Any]] = {}

    root: Path

    def __post_init__(self) -> None:
        absent = [name for name in ("name", "splits") if not hasattr(self, name)]
        if absent:
            raise TypeError(f"{type(self).__name__} must set the class attributes {', '.join(absent)}")
        object.__setattr__(self, "root", Path(self.root))

    @abstractmethod
    def sequences(self) -> list[Sequence]:
        """List all sequences that the filters choose, in order of their keys.

        Raises
        ------
        etl.errors.DatasetError
            When the folder is absent or has none of the known layouts.
        """

    @abstractmethod
    def annotate(self, sequence: Sequence) -> xr.Dataset:
        """Return the annotation dataset (schemas.annotation) of one sequence, at the rate asked for.

        Raises
        ------
        etl.errors.DatasetError
            When the sequence's raw files are not what the release says.
        """

    def notes(self) -> list[str]:
        """Return what is in the folder but isn't read, as sentences for the user. Called after `sequences`."""
        return []

    def content_options(self) -> dict[str, str]:
        """Return the options that can change an annotation, as their repr, by name."""
        names = (option.name for option in fields(self))
        return {name: repr(getattr(self, name)) for name in names if name != "root" and name not in self.filters}

    def takes_all(self) -> bool:
        """Whether `sequences` covers the whole dataset: training files of splits that it lacks are then outdated."""
        return True

    def without_filters(self) -> Self:
        """Return a reader of all sequences, with the other options of this one."""
        return replace(self, **self.filters)


@dataclass(frozen=True)
class FilteredReader(DatasetReader):
    """Base of readers whose sequences are chosen by subject, action and camera.

    Parameters
    ----------
    subjects, actions, cameras : collection of str, optional
        Names to keep; None keeps all.
    """

    filters: ClassVar[Mapping[str, Any]] = {"subjects": None, "actions": None, "cameras": None}

    _: KW_ONLY
    subjects: Collection[str] | None = None
    actions: Collection[str] | None = None
    cameras: Collection[str] | None = None

    def takes_all(self) -> bool:
        """Whether no subject, action or camera is left out."""
        return self.subjects is None and self.actions is None and self.cameras is None

    def select(self, found: Iterable[Sequence], **names: Collection[str] | None) -> list[Sequence]:
        """Return the sequences that the filters choose, in order of their keys.

        Parameters
        ----------
        found : iterable of Sequence
            All sequences.
        **names : collection of str, optional
            Canonical `subjects`, `actions` or `cameras`, where the reader's own option may hold other names.

        Raises
        ------
        DatasetError
            When no sequence is left.
        """
        found = sorted(found, key=lambda sequence: sequence.key)
        wanted = {part: names.get(f"{part}s", getattr(self, f"{part}s")) for part in ("subject", "action", "camera")}
        kept = [s for s in found if all(n is None or getattr(s.key, part) in n for part, n in wanted.items())]
        if not kept:
            asked = "; ".join(f"{part} {', '.join(names)}" for part, names in wanted.items() if names is not None)
            there = "; ".join(f"{part} {', '.join(sorted({getattr(s.key, part) for s in found}))}" for part in wanted)
            raise DatasetError(
                "The filters must leave at least one sequence.",
                f"no sequence of {asked} among {there}" if found else f"no sequences in {self.root}",
                "Ask for others, or unpack more of the release.",
            )
        return kept


def build_annotation(sequence: Sequence, **values: Any) -> xr.Dataset:
    """Build the annotation dataset of `sequence`: `schemas.annotation.build` with its key, split, name and media."""
    return annotation.build(
        sequence.key,
        split=sequence.split,
        release_name=sequence.release_name,
        media=sequence.media.to_dict(),
        **values,
    )
