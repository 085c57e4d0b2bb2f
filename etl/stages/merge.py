"""Merge: from annotations and features of many sequences to one XYCD file.

First the files of every sequence are inspected and joined without their values. So disagreements are reported before
anything is written, and the sizes of the output are known. Then the arrays are laid out once, and the rows of each
sequence are written, by one process or several. Memory doesn't grow with the dataset.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np

from etl.errors import MergeError
from etl.stages.blocks.vectors import RowSettings, has_statistics
from etl.stages.files.npz import ArrayFolder, ArrayWriter, NpzWriter
from etl.stages.files.row_writer import Member
from etl.stages.join import Inspected, SequenceFiles, check_joins, inspect_sequence
from etl.stages.progress import Reporter, Silent
from etl.stages.sequence_rows import SequenceReport, Task, write_sequence
from schemas import xycd

__all__ = ["MergeReport", "SequenceFiles", "SequenceReport", "merge"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class MergeReport:
    """Result of a merge; every annotated row is counted, as ok or by its other status."""

    output: Path  # the file or folder
    rows: int
    ok: int  # rows with a valid detection
    failed: dict[str, int] = field(default_factory=dict)  # the other rows, by status
    sequences: tuple[SequenceReport, ...] = ()  # in the order of the output

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "output": str(self.output)}


def merge(
    pairs: Sequence[SequenceFiles],
    output: Path,
    *,
    format: Literal["npz", "npy"] = "npz",
    part: Literal["truth", "detected"] = "truth",
    casp_extremes: Literal["quantile", "minmax"] = "quantile",
    compat: Literal["auglift"] | None = None,
    metadata: Mapping[str, Any] | None = None,
    allow_missing: bool = False,
    workers: int = 1,
    progress: Reporter | None = None,
) -> MergeReport:
    """Join sequences and write them as one XYCD file (schemas.xycd).

    Parameters
    ----------
    pairs : sequence of SequenceFiles
        The sequences, in any order.
    output : Path
        The npz, or the folder of npy files; an older one is replaced when the new one is complete.
    format : {"npz", "npy"}
        Kind of output.
    part, casp_extremes, compat
        See etl.stages.blocks.vectors.RowSettings.
    metadata : mapping, optional
        JSON-ready; stored in the key ``metadata``, with the counts.
    allow_missing : bool
        Write annotated rows without features with status not_run, and list them in the report.
    workers : int
        Processes.
    progress : Reporter, optional
        Gets the rows written.

    Returns
    -------
    MergeReport
        The counts.

    Raises
    ------
    etl.errors.MergeError
        When annotations and features don't join; nothing is written.
    etl.errors.WorkspaceError
        When the output can't be written; nothing of it is left.
    """
    if not pairs:
        raise MergeError(
            "A merge needs sequences.", "no sequence was given", "Run `xycd annotate` and `xycd estimate` first."
        )
    settings = RowSettings(part, casp_extremes, compat)
    report = progress or Silent()
    with _Pool(min(workers, len(pairs))) as pool:
        inspected = sorted(pool.map(inspect_sequence, pairs), key=lambda item: item.key)
        check_joins(inspected, allow_missing)
        shapes = _layout(inspected, settings)
        rows = sum(item.rows for item in inspected)
        report.start("merge", rows, unit="rows")
        writer_class: type[ArrayWriter] = NpzWriter if format == "npz" else ArrayFolder
        reports = []
        with writer_class(output, shapes) as writer:
            for blocks, sequence in pool.map(write_sequence, _tasks(inspected, writer.members, settings)):
                writer.record(blocks)
                reports.append(sequence)
                report.advance(sequence.rows, sequence.rows - sequence.ok)
            result = _summary(output, reports)
            given = {**(metadata or {}), **_grids(inspected)}
            writer.append("metadata", np.array(_metadata(given, settings, result)))
    report.finish(f"{rows:,} rows, {result.ok:,} with a detection: {output}")
    return result


def _layout(inspected: Sequence[Inspected], settings: RowSettings) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    contents = next((item.contents for item in inspected if item.contents), None)
    return xycd.layout(
        sum(item.rows for item in inspected),
        text={name: max(item.text[name] for item in inspected) for name in inspected[0].text},
        truth=any(item.truth for item in inspected),
        part=settings.part == "detected",
        statistics=contents is not None and has_statistics(contents.names),
        pose_channels=contents.pose_channels if contents else 0,
        depth_channels=contents.depth_channels if contents else 0,
        vectors=settings.vector_dtype,
    )


def _summary(output: Path, reports: Sequence[SequenceReport]) -> MergeReport:
    failed: Counter[str] = Counter()
    for report in reports:
        failed.update(report.failed)
    total = sum(r.rows for r in reports)
    return MergeReport(output, total, sum(r.ok for r in reports), dict(sorted(failed.items())), tuple(reports))


def _grids(inspected: Sequence[Inspected]) -> dict[str, Any]:
    """Columns and rows of the maps from which embeddings were read, by network; empty without embeddings."""
    grids: dict[str, list[list[int]]] = {}
    for network, columns, rows in sorted(set().union(*(item.grids for item in inspected))):
        grids.setdefault(network, []).append([columns, rows])
    return {"embedding_grids": grids} if grids else {}


def _metadata(given: Mapping[str, Any], settings: RowSettings, result: MergeReport) -> str:
    counts = {"rows": result.rows, "ok": result.ok, "failed": result.failed, "sequences": len(result.sequences)}
    own = {"schema": f"xycd {xycd.VERSION}", **asdict(settings), "counts": counts}
    return json.dumps({**given, **own}, sort_keys=True)


def _tasks(inspected: Sequence[Inspected], members: Mapping[str, Member], settings: RowSettings) -> Iterator[Task]:
    first = 0
    for item in inspected:
        yield Task(item, first, members, settings)
        first += item.rows


class _Pool:
    """Maps functions over items in this process or in several; not in threads, because HDF5 isn't thread-safe."""

    def __init__(self, workers: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        # The terminal sends Ctrl-C to the processes too; they ignore it, because the driver decides what to stop.
        ignore = (signal.SIGINT, signal.SIG_IGN)
        self._executor = ProcessPoolExecutor(workers, spawn, signal.signal, ignore) if workers > 1 else None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results in the order of the items."""
        if self._executor is None:
            yield from map(function, items)
            return
        try:
            yield from self._executor.map(function, items)
        except BrokenProcessPool as error:
            raise MergeError(
                "All processes of a merge must finish.",
                "a process was killed",
                "Check whether memory ran out, then merge again, with fewer workers if so.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
