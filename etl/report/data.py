"""Read the data of a report from a workspace: a bounded sample of rows, and exact counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etl.alignment.judge import FILE as JUDGE_FILE
from etl.alignment.judge import SequenceVerdict, read_verdicts
from etl.errors import MergeError, WorkspaceError
from etl.results.rows import Rows, read_rows
from etl.store.failures import list_failures
from etl.store.partition import Receipt
from etl.store.workspace import FeatureStore, Workspace
from schemas.keys import SequenceKey

MOST_ROWS: Final = 100_000  # of a dataset that a report looks at; about 70 MB


@dataclass(frozen=True)
class Material:
    """Everything that a report shows of one dataset.

    Parameters
    ----------
    dataset : str
        Its name.
    annotations : Path
        Folder of the annotation files.
    store : FeatureStore
        The feature files.
    keys : tuple of SequenceKey
        Sequences with features, in order; `Rows.sequence` counts in it.
    rows : Rows
        A sample: all rows where there are at most MOST_ROWS.
    total : int
        Annotated rows whose partitions are finished, and can be read.
    counts : Counter
        Those rows by status.
    receipts : tuple of Receipt
        Of the finished partitions.
    failures : DataFrame
        See etl.store.failures.
    verdicts : tuple of SequenceVerdict
        Of the alignment judge; empty if it has not judged these features.
    stage : dict
        Models and parameters behind the features.
    damaged : tuple of str
        Finished files that can't be read, with the reason. Nothing else here is about them.
    """

    dataset: str
    annotations: Path
    store: FeatureStore
    keys: tuple[SequenceKey, ...]
    rows: Rows
    total: int
    counts: Counter[str]
    receipts: tuple[Receipt, ...]
    failures: pd.DataFrame
    verdicts: tuple[SequenceVerdict, ...]
    stage: dict[str, Any]
    damaged: tuple[str, ...] = ()

    def values_of(self, name: str) -> NDArray[np.str_]:
        """(N,) subject, action or camera of each row."""
        return np.array([str(getattr(key, name)) for key in self.keys])[self.rows.sequence]


def gather(root: Path, dataset: str | None = None, most_rows: int = MOST_ROWS) -> Material:
    """Read the data of a report.

    Parameters
    ----------
    root : Path
        The workspace.
    dataset : str, optional
        Optional if the workspace has only one.
    most_rows : int
        Most rows to read; of a larger dataset, every n-th row of each sequence is read.

    Raises
    ------
    WorkspaceError
        When there are no finished features.
    """
    workspace = Workspace(root)
    name = dataset or the_only_dataset(workspace)
    current = workspace.current(name)
    fix = f"Run `xycd estimate {name}`, or wait until its first frames are done."
    if current.features is None:
        raise WorkspaceError("A report needs features.", f"only annotations of {name}", fix)
    store = workspace.features(name, current.features)
    receipts = [r for r in store.receipts().values() if (store.folder / r.path).exists()]
    if not receipts:
        raise WorkspaceError("A report needs finished frames.", f"none of {name} yet", fix)
    by_key: dict[SequenceKey, list[Receipt]] = {}
    for receipt in sorted(receipts, key=lambda r: r.path):
        by_key.setdefault(SequenceKey.from_path(name, receipt.path), []).append(receipt)
    keys = tuple(sorted(by_key))
    annotations = workspace.annotations(name, current.annotations)
    step = max(-(-sum(receipt.rows for receipt in receipts) // most_rows), 1)
    parts, readable, damaged = [], [], []
    for index, key in enumerate(keys):
        for receipt in by_key[key]:
            try:
                parts.append(read_rows(annotations / f"{key.path}.nc", store.folder / receipt.path, index, step))
                readable.append(receipt)
            except MergeError as error:  # one file costs its rows, not the report
                damaged.append(error.found)
    if not parts:
        raise WorkspaceError(
            "A report needs files that can be read.", damaged[0], f"Run `xycd estimate {name} --verify`."
        )
    counts: Counter[str] = Counter()
    for receipt in readable:
        counts.update(receipt.counts)
    return Material(
        dataset=name,
        annotations=annotations,
        store=store,
        keys=keys,
        rows=Rows.join(parts),
        total=sum(receipt.rows for receipt in readable),
        counts=counts,
        receipts=tuple(readable),
        failures=list_failures(root, name),
        verdicts=tuple(
            read_verdicts(root / name / JUDGE_FILE, annotations=current.annotations, features=current.features)
        ),
        stage=json.loads((store.folder / "stage.json").read_text()),
        damaged=tuple(damaged),
    )


def the_only_dataset(workspace: Workspace) -> str:
    """Name of the dataset in a workspace that holds one.

    Raises
    ------
    WorkspaceError
        When it holds none, or several.
    """
    known = workspace.datasets()
    if len(known) != 1:
        found = f"several datasets: {', '.join(known)}" if known else f"none in {workspace.root}"
        raise WorkspaceError(
            "The dataset must be named if there is not exactly one.", found, "Name it, and check --workspace."
        )
    return known[0]


def notes_of(material: Material) -> Iterator[str]:
    """Yield the notes that annotate made about sequences."""
    path = material.annotations / "manifest.json"
    if path.exists():
        content = json.loads(path.read_text())
        yield from content.get("notes", [])
        for name, entry in sorted(content.get("sequences", {}).items()):
            key = SequenceKey.from_path(material.dataset, name.removesuffix(".nc"))
            yield from (f"{key}: {note}" for note in entry.get("notes", []))
