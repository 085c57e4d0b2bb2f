"""Write the rows of one sequence to the XYCD file, from its annotation and feature files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from etl.errors import MergeError
from etl.stages.blocks.vectors import RowSettings, detected_part, predictions, truth
from etl.stages.files.row_writer import Block, Member, RowWriter
from etl.stages.join import Inspected, Ints, image_names, is_sorted, match, names_of, opened, rows_of
from etl.store.netcdf import place_of, read_array, text_of
from schemas import annotation, features, xycd
from schemas.features import Status, decode_float16

Floats = NDArray[np.float32]

_CHUNK_BYTES: Final = 32 << 20  # of output rows in memory at once
_EMBEDDINGS: Final = {"pose_embedding": "rtm_joint_feats", "depth_embedding": "dav2_joint_feats"}
_TRUTH: Final = ("keypoints_2d", "keypoints_3d", "visibility", "center", "scale")


@dataclass(frozen=True)
class SequenceReport:
    """Counts of one sequence's rows in the output."""

    sequence: str  # its key
    first: int  # row in the output
    rows: int
    ok: int  # rows with a valid detection
    failed: dict[str, int]  # the other rows, by status
    missing: tuple[
        tuple[int, int], ...
    ] = ()  # person and frame number of rows without features, in `failed` as not_run


@dataclass(frozen=True)
class Task:
    """One sequence's share of the output; sent to another process."""

    inspected: Inspected
    first: int  # row in the output
    members: Mapping[str, Member]  # arrays of the output
    settings: RowSettings


def write_sequence(task: Task) -> tuple[list[Block], SequenceReport]:
    """Write all rows of one sequence.

    Returns
    -------
    blocks : list of Block
        Receipts for `etl.stages.files.npz.ArrayWriter.record`.
    report : SequenceReport
        Counts of the rows.

    Raises
    ------
    etl.errors.MergeError
        When a file can't be read, or changed since it was inspected.
    etl.errors.WorkspaceError
        When the rows can't be written.
    """
    item = task.inspected
    statuses: Counter[int] = Counter()
    with RowWriter(task.members) as writer:
        sink = _Sink(writer, task)
        annotated = _write_annotation(task, sink)
        missing = np.ones(len(annotated), bool)
        for path in item.files.features:
            with opened(path, f"xycd features {features.VERSION}", "estimate") as ds:
                target = match(annotated, rows_of(ds)).target
                if (target < 0).any() or not missing[target].all():
                    raise _changed(f"{path}")
                missing[target] = False
                statuses.update(_write_features(ds, path, target, task, sink))
        absent = np.flatnonzero(missing)
        if len(absent) != item.missing:
            raise _changed(f"files of {item.key}")
        for rows in _slices(len(absent), _bytes_of_row(task.members)):
            predicted = (name for name in xycd.KEYS if xycd.is_predicted(name))
            sink.put_predictions(_zeros(task.members, predicted, len(absent[rows])), absent[rows])
        blocks = writer.blocks()
    statuses[Status.NOT_RUN] += len(absent)
    failed = {status.name.lower(): statuses[status] for status in Status if status != Status.OK and statuses[status]}
    names = tuple((int(person), int(frame)) for person, frame in annotated[absent])
    return blocks, SequenceReport(str(item.key), task.first, item.rows, statuses[Status.OK], failed, names)


def _changed(what: str) -> MergeError:
    return MergeError("Files must not change during a merge.", f"{what} changed", "Merge again.")


class _Sink:
    """Writes rows of one sequence, which are consecutive in the output."""

    def __init__(self, writer: RowWriter, task: Task) -> None:
        self._writer, self._task = writer, task
        self.visibility: Floats | None = None  # (N, 17), of the ground truth

    def put(self, arrays: Mapping[str, NDArray[Any]], target: Ints) -> None:
        """Write arrays (M, ...) as the sequence's rows `target` (M,); keys that aren't in the output are skipped."""
        order = np.argsort(target, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(target[order]) != 1) + 1) if len(order) else []
        for key, values in arrays.items():
            for run in runs if key in self._task.members else []:
                consecutive = bool((np.diff(run) == 1).all())
                part = values[run[0] : run[-1] + 1] if consecutive else values[run]
                self._writer.write_behind(key, self._task.first + int(target[run[0]]), part)

    def copy(self, key: str, source: Path, offset: int, target: Ints) -> None:
        """Copy the bytes of consecutive rows `target` (M,) of the array `key` from a file."""
        self._writer.copy_behind(key, self._task.first + int(target[0]), len(target), source, offset)

    def put_predictions(self, arrays: dict[str, NDArray[Any]], target: Ints) -> None:
        """Write predicted arrays, and ``part`` if it is made of them."""
        if self._task.settings.part == "detected":
            visibility = None if self.visibility is None else self.visibility[target]
            arrays["part"] = detected_part(arrays, visibility, self._task.settings)
        self.put(arrays, target)


def _write_annotation(task: Task, sink: _Sink) -> Ints:
    """Write the annotation's arrays; returns its rows (N, 2), person and frame number."""
    key, members = task.inspected.key, task.members
    with opened(task.inspected.files.annotation, f"xycd annotation {annotation.VERSION}", "annotate") as ds:
        annotated = rows_of(ds)
        if len(annotated) != task.inspected.rows or not is_sorted(annotated):
            raise _changed(f"{task.inspected.files.annotation}")
        if task.inspected.truth:
            sink.visibility = read_array(ds, "visibility").astype(np.float32)
        template = text_of(ds.attrs["imgname"])
        for rows in _slices(len(annotated), 2000):
            count = rows.stop - rows.start
            arrays: dict[str, NDArray[Any]] = {
                "imgname": np.array(image_names(template, annotated[rows])),
                "subject": np.full(count, key.subject),
                "action": np.full(count, key.action),
                "subaction": np.full(count, key.subaction, np.int32),
                "camera": np.full(count, key.camera),
                "person": annotated[rows, 0].astype(np.int32),
                "frame": annotated[rows, 1].astype(np.int32),
                "valid_annotation": read_array(ds, "valid_annotation", rows).astype(bool),
            }
            if task.inspected.truth:
                arrays |= truth(*(read_array(ds, name, rows) for name in _TRUTH))
            else:
                arrays |= _zeros(members, (n for n, k in xycd.KEYS.items() if k.group == "truth"), count)
            if task.settings.part == "detected":
                arrays.pop("part", None)
            sink.put(arrays, np.arange(rows.start, rows.stop))
    return annotated


def _write_features(ds: h5py.File, path: Path, target: Ints, task: Task, sink: _Sink) -> Counter[int]:
    """Write the rows of one feature file in parts; returns the number of rows with each status."""
    names = names_of(ds)
    statuses: Counter[int] = Counter()
    for rows in _slices(len(target), _bytes_of_row(task.members)):
        status = read_array(ds, "status", rows)
        valid = read_array(ds, "joint_valid", rows).astype(bool)
        arrays = predictions(read_array(ds, "features", rows), names, status, valid, task.settings)
        for variable, key in _EMBEDDINGS.items():
            if variable not in ds:
                continue
            place = place_of(ds, variable, np.uint16)
            if place is not None and (status == Status.OK).all() and (np.diff(target[rows]) == 1).all():
                # Embeddings are nine tenths of a file: copying their bytes is the fastest.
                sink.copy(key, path, place + rows.start * task.members[key].row_bytes, target[rows])
                continue
            embedding = decode_float16(read_array(ds, variable, rows))
            embedding[status != Status.OK] = 0
            arrays[key] = embedding
        sink.put_predictions(arrays, target[rows])
        statuses.update(status.tolist())
    return statuses


def _zeros(members: Mapping[str, Member], names: Iterator[str], count: int) -> dict[str, NDArray[Any]]:
    return {n: np.zeros((count, *members[n].shape[1:]), members[n].dtype) for n in names if n in members}


def _bytes_of_row(members: Mapping[str, Member]) -> int:
    return sum(member.row_bytes for member in members.values())


def _slices(rows: int, row_bytes: int) -> Iterator[slice]:
    """Consecutive slices of `rows` rows, each at most _CHUNK_BYTES."""
    step = max(_CHUNK_BYTES // max(row_bytes, 1), 1)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
