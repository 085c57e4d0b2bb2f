"""Strict join of one sequence's annotation with its feature files, by person and frame number."""

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
_SHOWN = 5  # frames or sequences that an error names


@dataclass(frozen=True)
class SequenceFiles:
    """The files of one sequence."""

    annotation: Path
    features: tuple[Path, ...]  # in any order


@dataclass(frozen=True)
class Contents:
    """Content of feature files; the same for all files that are merged."""

    names: tuple[str, ...]  # of the features, in order
    pose_channels: int  # width of the embedding; 0 without
    depth_channels: int
    stage: str  # description of the models and parameters, as the files have it


@dataclass(frozen=True)
class Inspected:
    """Facts about one sequence's files, known before anything is written."""

    files: SequenceFiles
    key: SequenceKey
    rows: int  # annotated
    text: dict[str, int]  # characters of the longest imgname, and of the other texts
    truth: bool  # whether there is ground truth
    contents: Contents | None  # None without feature files
    problem: str  # why the files don't join; empty if they do
    missing: int  # annotated rows without features
    first_missing: str  # the first of them, in words
    grids: frozenset[tuple[str, int, int]] = frozenset()  # network, columns and rows of the maps behind the embeddings


@dataclass(frozen=True)
class Matching:
    """The annotated row of each feature row."""

    target: Ints  # (M,): row of the annotation; -1 without one
    extra: NDArray[np.bool_]  # (M,): feature rows without an annotated row
    repeated: NDArray[np.bool_]  # (M,): feature rows whose annotated row has an earlier feature row
    missing: NDArray[np.bool_]  # (N,): annotated rows without features


def match(annotated: Ints, found: Ints) -> Matching:
    """Match feature rows (M, 2) to annotated rows (N, 2), each a person and a frame number.

    Annotated rows must be unique and sorted by person, then by frame, as schemas.annotation requires.
    """
    wanted, given = _as_one_number(annotated), _as_one_number(found)
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
    """Whether rows (N, 2) are unique and sorted by person, then by frame number."""
    return bool((np.diff(_as_one_number(annotated)) > 0).all())


def _as_one_number(rows: Ints) -> Ints:
    """One number (N,) for each row (N, 2), in the same order; frame numbers are int32, so both fit into an int64."""
    return (rows[:, 0] << 32) + rows[:, 1]


def inspect_sequence(files: SequenceFiles) -> Inspected:
    """Read the rows of a sequence's files, without their values, and try the join.

    Raises
    ------
    etl.errors.MergeError
        When a file can't be read or has another schema.
    """
    with opened(files.annotation, f"xycd annotation {annotation.VERSION}", "annotate") as ds:
        key, annotated = key_of(ds), rows_of(ds)
        # The greatest numbers have the most digits.
        (longest,) = image_names(text_of(ds.attrs["imgname"]), annotated.max(axis=0, initial=0, keepdims=True))
        texts = {"imgname": longest, "subject": key.subject, "action": key.action, "camera": key.camera}
        truth = "keypoints_2d" in ds
    contents: Contents | None = None
    grids: set[tuple[str, int, int]] = set()
    rows, problem = [np.empty((0, 2), np.int64)], ""
    for path in files.features:
        with opened(path, f"xycd features {features.VERSION}", "estimate") as ds:
            if key_of(ds) != key:
                problem = problem or f"{path.name} belongs to {key_of(ds)}"
            found = contents_of(ds)
            if contents is not None and found != contents:
                problem = problem or difference(contents, found)
            contents = found
            grids |= grids_of(ds)
            rows.append(rows_of(ds))
    given = np.concatenate(rows)
    matching = match(annotated, given)
    problem = problem or _problem(matching, given)
    if not is_sorted(annotated):
        problem = f"{files.annotation.name} isn't sorted by person and frame, or has a row twice"
    missing = annotated[matching.missing]
    return Inspected(
        files=files,
        key=key,
        rows=len(annotated),
        text={name: len(value) for name, value in texts.items()},
        truth=truth,
        contents=contents,
        problem=problem,
        missing=len(missing),
        first_missing=_frames(missing),
        grids=frozenset(grids),
    )


def _problem(matching: Matching, found: Ints) -> str:
    parts = []
    if matching.extra.any():
        parts.append(f"{matching.extra.sum()} feature rows without annotation ({_frames(found[matching.extra])})")
    if matching.repeated.any():
        parts.append(f"{matching.repeated.sum()} feature rows that occur twice ({_frames(found[matching.repeated])})")
    return "; ".join(parts)


def _frames(rows: Ints) -> str:
    shown = ", ".join(f"frame {frame} person {person}" for person, frame in rows[:_SHOWN].tolist())
    return shown + (", ..." if len(rows) > _SHOWN else "")


def check_joins(inspected: Sequence[Inspected], allow_missing: bool) -> None:
    """Check that all sequences join, once each, and have features of the same kind.

    Raises
    ------
    etl.errors.MergeError
        When they don't.
    """
    broken = [f"{item.key}: {item.problem}" for item in inspected if item.problem]
    if broken:
        raise MergeError(
            "Every feature row must belong to one annotated row, and no two to the same.",
            f"{len(broken)} sequences don't: " + _listed(broken),
            "Run `xycd annotate` and `xycd estimate` with the same configuration, then merge again.",
        )
    keys = [item.key for item in inspected]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise MergeError(
            "A sequence must be merged once.", f"twice: {_listed(twice)}", "Name each annotation file once."
        )
    first: Inspected | None = None
    for item in inspected:
        if item.contents is None:
            continue
        first = first or item
        if first.contents and item.contents != first.contents:
            raise MergeError(
                "Merged features must come from the same models and parameters.",
                f"{first.key} and {item.key}: {difference(first.contents, item.contents)}",
                "Run `xycd estimate` with one configuration, then merge again.",
            )
    lacking = [
        f"{item.key}: {item.missing} of {item.rows} rows ({item.first_missing})" for item in inspected if item.missing
    ]
    if lacking and not allow_missing:
        total = sum(item.missing for item in inspected)
        raise MergeError(
            "Every annotated row needs features.",
            f"{total} rows without features, in {len(lacking)} sequences: {_listed(lacking)}",
            "Run `xycd estimate` to its end, or set merge.allow_missing to write them as invalid.",
        )


def difference(first: Contents, second: Contents) -> str:
    """Describe how the contents of two files differ."""
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
    """Open a NetCDF file as HDF5, if it has the schema.

    Raises
    ------
    etl.errors.MergeError
        When it can't be opened, or has another schema.
    """
    fix = f"Run `xycd {stage}` again; add --verify if the file is damaged."
    try:
        with hdf5.opened(path, set_aside=False) as ds:
            found = text_of(ds.attrs.get("schema", "none"))
            if found != schema:
                raise MergeError(f"Its schema must be {schema!r}.", f"{path} has the schema {found!r}", fix)
            yield ds
    except (OSError, RuntimeError, KeyError) as error:  # raised by h5py for files that HDF5 can't read
        raise MergeError("Merged files must be readable.", f"{path}: {error}", fix) from error


def rows_of(ds: h5py.File) -> Ints:
    """Person and frame number (N, 2) of every row."""
    return np.stack([read_array(ds, name).astype(np.int64) for name in ("person", "frame_number")], axis=1)


def names_of(ds: h5py.File) -> tuple[str, ...]:
    """Names of a feature file's features, in order."""
    return tuple(ds["feature"].asstr()[()])


def contents_of(ds: h5py.File) -> Contents:
    """Content of a feature file."""
    pose, depth = (ds[name].shape[-1] if name in ds else 0 for name in ("pose_embedding", "depth_embedding"))
    return Contents(names_of(ds), pose, depth, text_of(ds.attrs.get("stage", "")))


def grids_of(ds: h5py.File) -> set[tuple[str, int, int]]:
    """Network, columns and rows of the maps from which a feature file's embeddings were read."""
    stored = json.loads(text_of(ds.attrs.get("embedding_grids", "{}")))
    return {(network, columns, rows) for network, sizes in stored.items() for columns, rows in sizes}


def image_names(template: str, rows: Ints) -> list[str]:
    """Image names of rows (N, 2); see schemas.annotation.imgname_of."""
    return [template.format(number=frame + 1, frame=frame, person=person) for person, frame in rows.tolist()]


def key_of(ds: h5py.File) -> SequenceKey:
    """The sequence that a file belongs to."""
    dataset, subject, action, camera = (text_of(ds.attrs[n]) for n in ("dataset", "subject", "action", "camera"))
    return SequenceKey(dataset, subject, action, int(number_of(ds.attrs["subaction"])), camera)
