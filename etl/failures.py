"""Everything that isn't ok, with its reason: sequences, partitions and frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from etl.hdf5 import opened, read_array, text_of
from etl.workspace import FeatureStore, Workspace
from schemas import features
from schemas.features import Status
from schemas.keys import SequenceKey

COLUMNS = ("dataset", "subject", "action", "subaction", "camera", "frame", "person", "what", "reason")


def list_failures(root: Path, dataset: str | None = None) -> pd.DataFrame:
    """All failures of the last runs in a workspace.

    Parameters
    ----------
    root : Path
        The workspace.
    dataset : str, optional
        Only this one.

    Returns
    -------
    pandas.DataFrame
        One row a sequence, partition or frame that isn't ok; columns COLUMNS. `what` is ``annotation``,
        ``partition`` or the frame's status. `frame` is a number, or first-last of a partition, or empty.

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
    manifest = workspace.annotations(dataset, current.annotations) / "manifest.json"
    if manifest.exists():
        for name, reason in sorted(json.loads(manifest.read_text()).get("failures", {}).items()):
            yield _entry(SequenceKey.from_path(dataset, name), "annotation", reason)
    if current.features is None:
        return
    store = workspace.features(dataset, current.features)
    for entry in store.failures():
        key = SequenceKey.from_path(dataset, entry["path"])
        yield _entry(key, "partition", entry["reason"], frame=entry["frames"])
    yield from _frames(store, dataset)


def _frames(store: FeatureStore, dataset: str) -> Iterator[dict[str, Any]]:
    """Rows that aren't ok; only files whose receipt counts some are opened."""
    for receipt in sorted(store.receipts().values(), key=lambda r: r.path):
        path = store.folder / receipt.path
        if receipt.counts.get("ok", 0) == receipt.rows or not path.exists():
            continue
        key = SequenceKey.from_path(dataset, receipt.path)
        with opened(path) as file:
            reasons = features.parse_failures(text_of(file.attrs["failures"]))
            status, number, person = (read_array(file, name) for name in ("status", "frame_number", "person"))
        for row in (status != Status.OK).nonzero()[0].tolist():
            what = Status(status[row]).name.lower()
            yield _entry(key, what, reasons.get(row, ""), frame=str(number[row]), person=str(person[row]))


def _entry(key: SequenceKey, what: str, reason: str, frame: str = "", person: str = "") -> dict[str, Any]:
    names = ("dataset", "subject", "action", "subaction", "camera")
    return {**{n: getattr(key, n) for n in names}, "frame": frame, "person": person, "what": what, "reason": reason}
