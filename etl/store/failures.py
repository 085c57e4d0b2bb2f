"""List of failed sequences, partitions and frames, with reasons."""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from etl.store.netcdf import DAMAGE, opened, read_array, text_of
from etl.store.partition import Partition, Receipt
from etl.store.partition_table import PartitionTable
from etl.store.workspace import Workspace
from schemas import features
from schemas.features import Status
from schemas.keys import SequenceKey

COLUMNS = ("dataset", "subject", "action", "subaction", "camera", "frame", "person", "what", "reason")


def list_failures(root: Path, dataset: str | None = None) -> pd.DataFrame:
    """List all failures of the last runs in a workspace.

    Parameters
    ----------
    root : Path
        The workspace.
    dataset : str, optional
        Dataset to list; by default all.

    Returns
    -------
    pandas.DataFrame
        One row per sequence, partition or frame that isn't ok; columns COLUMNS. `what` is ``annotation``,
        ``partition``, ``unreadable`` (a feature file) or the frame's status; frames
        that no run has reached (``not_run``) are listed as ranges. `frame` is a number, first-last, or empty.

    Raises
    ------
    etl.errors.WorkspaceError
        When the workspace has no results (of that dataset).
    """
    workspace = Workspace(root)
    names = [dataset] if dataset else workspace.datasets()
    if not names:
        workspace.current("any dataset")
    rows = [row for name in names for row in _of_dataset(workspace, name)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of_dataset(workspace: Workspace, dataset: str) -> Iterator[dict[str, Any]]:
    current = workspace.current(dataset)
    annotations = workspace.annotations(dataset, current.annotations)
    manifest = annotations / "manifest.json"
    if manifest.exists():
        for name, reason in sorted(json.loads(manifest.read_text()).get("failures", {}).items()):
            yield _entry(SequenceKey.from_path(dataset, name), "annotation", reason)
    if current.features is None:
        return
    store = workspace.features(dataset, current.features)
    failed = store.failures()
    for entry in failed:
        key = SequenceKey.from_path(dataset, entry["path"])
        yield _entry(key, "partition", entry["reason"], frame=entry["frames"])
    receipts = store.receipts()
    yield from _frames(receipts.values(), store.folder, dataset)
    table = store.folder / f"partitions-{current.annotations}.json"
    partitions = PartitionTable.read_partitions(table, dataset, annotations)
    finished = {receipt.id for receipt in receipts.values() if (store.folder / receipt.path).exists()}
    yield from _not_run(partitions, finished | {entry["id"] for entry in failed})


def _not_run(partitions: Iterable[Partition], known: Container[str]) -> Iterator[dict[str, Any]]:
    """Ranges of frames without a result or a failure."""
    ordered = sorted(partitions, key=lambda p: (p.key, p.first))
    for (key, left), run in itertools.groupby(ordered, lambda p: (p.key, p.id not in known)):
        if left:
            first, *others = run
            last = others[-1] if others else first
            yield _entry(key, "not_run", "no run has got to it yet", frame=f"{first.first}-{last.last}")


def _frames(receipts: Iterable[Receipt], folder: Path, dataset: str) -> Iterator[dict[str, Any]]:
    """Frames that aren't ok. Only files whose receipt counts such frames are opened."""
    for receipt in sorted(receipts, key=lambda r: r.path):
        path = folder / receipt.path
        if receipt.counts.get("ok", 0) == receipt.rows or not path.exists():
            continue
        key = SequenceKey.from_path(dataset, receipt.path)
        try:
            with opened(path) as file:
                reasons = features.parse_failures(text_of(file.attrs["failures"]))
                status, number, person = (read_array(file, name) for name in ("status", "frame_number", "person"))
        except DAMAGE as error:
            reason = f"{path.name}: {error}; `xycd run --verify` estimates it again"
            yield _entry(key, "unreadable", reason, frame=path.name.partition("_")[0])
            continue
        for row in (status != Status.OK).nonzero()[0].tolist():
            what = Status(status[row]).name.lower()
            yield _entry(key, what, reasons.get(row, ""), frame=str(number[row]), person=str(person[row]))


def _entry(key: SequenceKey, what: str, reason: str, frame: str = "", person: str = "") -> dict[str, Any]:
    names = ("dataset", "subject", "action", "subaction", "camera")
    return {**{n: getattr(key, n) for n in names}, "frame": frame, "person": person, "what": what, "reason": reason}
