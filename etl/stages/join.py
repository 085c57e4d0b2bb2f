"""The strict join of one sequence's annotation with its feature files, on person and frame number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from etl.errors import MergeError
from etl.store import netcdf as hdf5
from etl.store.netcdf import number_of, read_array, text_of
from schemas import annotation, features
from schemas.keys import SequenceKey

Ints = NDArray[np.int64]
_SHOWN = 5  # frames, and sequences, that an error names


@dataclass(frozen=True)
class SequenceFiles:
    """The files of one sequence.

    Parameters
    ----------
    annotation : Path
        Its annotation dataset.
    features : tuple of Path
        Its feature files, in any order.
    """

    annotation: Path
    features: tuple[Path, ...]


@dataclass(frozen=True)
class Contents:
    """What feature files hold, row by row the same in all files that are merged.

    Parameters
    ----------
    names : tuple of str
        Features, in order.
    pose_channels, depth_channels : int
        Widths of the embeddings; 0 where there are none.
    stage : str
        The description of the models and parameters that made them, as the files carry it.
    """

    names: tuple[str, ...]
    pose_channels: int
    depth_channels: int
    stage: str


@dataclass(frozen=True)
class Inspected:
    """What a first look into a sequence's files tells, before anything is written.

    Parameters
    ----------
    files : SequenceFiles
        The files.
    key : SequenceKey
        The sequence.
    rows : int
        Annotated rows.
    text : dict of str to int
        Characters of the longest imgname, and of the other texts.
    truth : bool
        Whether there is ground truth.
    contents : Contents or None
        None without feature files.
    problem : str
        Why the files don't join; empty if they do.
    missing : int
        Annotated rows without features.
    first_missing : str
        The first of them, as words.
    grids : frozenset of (str, int, int)
        Network, columns and rows of the maps that its embeddings were read from; none without embeddings.
    """

    files: SequenceFiles
    key: SequenceKey
    rows: int
    text: dict[str, int]
    truth: bool
    contents: Contents | None
    problem: str
    missing: int
    first_missing: str
    grids: frozenset[tuple[str, int, int]] = frozenset()


@dataclass(frozen=True)
class Matching:
    """Which annotated row each feature row belongs to.

    Parameters
    ----------
    target : (M,) int64
        Row of the annotation; -1 where it has none.
    extra, repeated : (M,) bool
        Feature rows that no annotation names, or whose row is taken by an earlier one.
    missing : (N,) bool
        Annotated rows without features.
    """

    target: Ints
    extra: NDArray[np.bool_]
    repeated: NDArray[np.bool_]
    missing: NDArray[np.bool_]


def match(annotated: Ints, found: Ints) -> Matching:
    """Match feature rows (M, 2) to annotated rows (N, 2), each a person and a frame number.

    The annotated rows are unique and sorted by person, then by frame, as schemas.annotation demands.
    """
    wanted, given = _single(annotated), _single(found)
    place = np.searchsorted(wanted, given)
    hit = np.zeros(len(given), bool)
    if len(wanted):
        hit = wanted[np.minimum(place, len(wanted) - 1)] == given
    target = np.where(hit, place, -1)
    repeated = hit.copy()
    repeated[np.unique(given, return_index=True)[1]] = False
    missing = np.ones(len(wanted), bool)
    missing[target[hit]] = False
    return Matching(target, ~hit, repeated, missing)


def is_sorted(annotated: Ints) -> bool:
    """Whether rows (N, 2) are sorted by person, then by frame number, each once."""
    return bool((np.diff(_single(annotated)) > 0).all())


def _single(rows: Ints) -> Ints:
    """One number (N,) a row (N, 2), in the same order; frame numbers are int32, so there is room for both."""
    return (rows[:, 0] << 32) + rows[:, 1]


def inspect(files: SequenceFiles) -> Inspected:
    """Look into a sequence's files and try the join.

    Raises
    ------
    etl.errors.MergeError
        When a file can't be read or is of another schema.
    """
    with opened(files.annotation, f"xycd annotation {annotation.VERSION}", "annotate") as ds:
        key = key_of(ds)
        annotated = rows_of(ds)
        # A greater number has as many digits, or more.
        (longest,) = image_names(text_of(ds.attrs["imgname"]), annotated.max(axis=0, initial=0, keepdims=True))
        texts = {"imgname": longest, "subject": key.subject, "action": key.action, "camera": key.camera}
        text = {name: len(value) for name, value in texts.items()}
        truth = "keypoints_2d" in ds
    contents: Contents | None = None
    grids: set[tuple[str, int, int]] = set()
    found, problem = [np.empty((0, 2), np.int64)], ""
    for path in files.features:
        with opened(path, f"xycd features {features.VERSION}", "estimate") as ds:
            if key_of(ds) != key:
                problem = problem or f"{path.name} is of {key_of(ds)}"
            theirs = contents_of(ds)
            if contents is not None and theirs != contents:
                problem = problem or difference(contents, theirs)
            contents = theirs
            grids |= grids_of(ds)
            found.append(rows_of(ds))
    matching = match(annotated, np.concatenate(found))
    problem = problem or _problem(matching, np.concatenate(found))
    if not is_sorted(annotated):
        problem = f"{files.annotation.name} isn't sorted by person, then by frame, each once"
    missing = annotated[matching.missing]
    shown = _frames(missing)
    return Inspected(files, key, len(annotated), text, truth, contents, problem, len(missing), shown, frozenset(grids))


def _problem(matching: Matching, found: Ints) -> str:
    parts = []
    if matching.extra.any():
        parts.append(f"{matching.extra.sum()} feature rows that no annotation names ({_frames(found[matching.extra])})")
    if matching.repeated.any():
        parts.append(f"{matching.repeated.sum()} feature rows that occur twice ({_frames(found[matching.repeated])})")
    return "; ".join(parts)


def _frames(rows: Ints) -> str:
    shown = ", ".join(f"frame {frame} person {person}" for person, frame in rows[:_SHOWN].tolist())
    return shown + (", ..." if len(rows) > _SHOWN else "")


def check(inspected: Sequence[Inspected], allow_missing: bool) -> None:
    """Raise the one error that names every kind of disagreement among all sequences.

    Raises
    ------
    etl.errors.MergeError
        When a sequence's files don't join, sequences occur twice, or feature files were made differently.
    """
    broken = [f"{item.key}: {item.problem}" for item in inspected if item.problem]
    if broken:
        raise MergeError(
            "Every feature row belongs to exactly one annotated row, and none to two.",
            f"{len(broken)} sequences that differ: " + _listed(broken),
            "Run `xycd annotate` and `xycd estimate` with the same configuration, then merge again.",
        )
    keys = [item.key for item in inspected]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise MergeError("A sequence is merged once.", f"twice: {_listed(twice)}", "Name each annotation file once.")
    first: Inspected | None = None
    for item in inspected:
        if item.contents is None:
            continue
        first = first or item
        if first.contents and item.contents != first.contents:
            raise MergeError(
                "Features that are merged were made by the same models and parameters.",
                f"{first.key} and {item.key}: {difference(first.contents, item.contents)}",
                "Run `xycd estimate` with one configuration, then merge again.",
            )
    lacking = [
        f"{item.key}: {item.missing} of {item.rows} rows ({item.first_missing})" for item in inspected if item.missing
    ]
    if lacking and not allow_missing:
        total = sum(item.missing for item in inspected)
        raise MergeError(
            "Every annotated row has features.",
            f"{total} rows without, in {len(lacking)} sequences: {_listed(lacking)}",
            "Run `xycd estimate` to its end, or set merge.allow_missing to write them as invalid.",
        )


def difference(first: Contents, second: Contents) -> str:
    """In what two files' contents differ, as words."""
    if first.names != second.names:
        apart = sorted(set(first.names) ^ set(second.names))
        return f"features differ by {apart or 'their order'}"
    if (first.pose_channels, first.depth_channels) != (second.pose_channels, second.depth_channels):
        return (
            f"embeddings are {first.pose_channels} and {first.depth_channels} wide, "
            f"or {second.pose_channels} and {second.depth_channels}"
        )
    return "made by different models or parameters"


def _listed(texts: list[str]) -> str:
    rest = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


@contextmanager
def opened(path: Path, schema: str, stage: str) -> Iterator[h5py.File]:
    """A NetCDF file as HDF5; refused if it isn't of the schema.

    Raises
    ------
    etl.errors.MergeError
        When it can't be opened, or is of another schema.
    """
    fix = f"Run `xycd {stage}` again; add --verify if the file is damaged."
    try:
        with hdf5.opened(path, set_aside=False) as ds:
            found = text_of(ds.attrs.get("schema", "none"))
            if found != schema:
                raise MergeError(f"{path.name} has the schema {schema!r}.", f"{found!r} in {path}", fix)
            yield ds
    except (OSError, RuntimeError, KeyError) as error:  # h5py's, for what HDF5 can't read
        raise MergeError("Files that are merged can be read.", f"{path}: {error}", fix) from error


def rows_of(ds: h5py.File) -> Ints:
    """Person and frame number (N, 2) of every row."""
    return np.stack([read_array(ds, name).astype(np.int64) for name in ("person", "frame_number")], axis=1)


def names_of(ds: h5py.File) -> tuple[str, ...]:
    """Names of a feature file's features, in order."""
    return tuple(ds["feature"].asstr()[()])


def contents_of(ds: h5py.File) -> Contents:
    """What a feature file holds."""
    pose, depth = (ds[name].shape[-1] if name in ds else 0 for name in ("pose_embedding", "depth_embedding"))
    return Contents(names_of(ds), pose, depth, text_of(ds.attrs.get("stage", "")))


def grids_of(ds: h5py.File) -> set[tuple[str, int, int]]:
    """Network, columns and rows of the maps that a feature file's embeddings were read from."""
    told = json.loads(text_of(ds.attrs.get("embedding_grids", "{}")))
    return {(network, columns, rows) for network, sizes in told.items() for columns, rows in sizes}


def image_names(template: str, rows: Ints) -> list[str]:
    """Image names of rows (N, 2); see schemas.annotation.imgname_of."""
    return [template.format(number=frame + 1, frame=frame, person=person) for person, frame in rows.tolist()]


def key_of(ds: h5py.File) -> SequenceKey:
    """The sequence that a file is of."""
    dataset, subject, action, camera = (text_of(ds.attrs[n]) for n in ("dataset", "subject", "action", "camera"))
    return SequenceKey(dataset, subject, action, int(number_of(ds.attrs["subaction"])), camera)
