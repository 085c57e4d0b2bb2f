"""The index of all frames with their status, as Parquet, opened with Dask.

It lies beside the feature files and is updated when it is opened: only files that are new since are read, and of them
a few numbers a row. Each state is a Parquet file of its own, named by the feature files that it has, and is never
changed; so any number of readers and writers get along. Where it can't be written, the rows stay in memory.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from etl.errors import WorkspaceError
from etl.results.features import Features, open_features
from etl.results.reading import status_names
from etl.store.netcdf import opened, read_array
from etl.store.partition import Receipt, digest
from etl.store.workspace import Workspace, atomic_target
from schemas.keys import SequenceKey

if TYPE_CHECKING:
    import dask.dataframe as dd

FOLDER: Final = "index"
GROUP_ROWS: Final = 1 << 17  # rows of a Parquet row group, and of a Dask partition
KEEP: Final = 86_400.0  # seconds that an earlier state stays, for readers that still use it
CONTENTS: Final = b"xycd contents"  # metadata: name of each feature file in a state, by its identity
TEXT: Final = pa.dictionary(pa.int32(), pa.string())  # in memory, where most rows repeat the row before
SCHEMA: Final = pa.schema(
    [
        *((name, TEXT) for name in ("dataset", "subject", "action")),
        ("subaction", pa.int32()),
        ("camera", TEXT),
        ("person", pa.int32()),
        ("frame", pa.int32()),
        ("status", TEXT),
        ("file", TEXT),
    ]
)

_TEXTS: Final = [field.name for field in SCHEMA if field.type == TEXT]
_PLAIN: Final = pa.schema([(field.name, pa.string() if field.type == TEXT else field.type) for field in SCHEMA])


def open_index(workspace: Path | str, dataset: str | None = None) -> dd.DataFrame:
    """Open the index of all finished frames.

    Parameters
    ----------
    workspace : Path
        The folder of results.
    dataset : str, optional
        Only this one; all by default.

    Returns
    -------
    dask.dataframe.DataFrame
        One row a frame and person: dataset, subject, action, subaction, camera, person, frame, status, and file, the
        feature file relative to the workspace. Rows of a file follow each other.

    Raises
    ------
    WorkspaceError
        When there are no features.
    """
    import dask.dataframe as dd

    root = Path(workspace)
    pieces = []
    for name in [dataset] if dataset else _estimated(root):
        found = refresh(root, open_features(root, name))
        pieces.append(
            dd.read_parquet(found, split_row_groups=True)
            if isinstance(found, Path)
            else dd.from_pandas(found, npartitions=1)
        )
    return pieces[0] if len(pieces) == 1 else dd.concat(pieces)


def _estimated(root: Path) -> list[str]:
    space = Workspace(root)
    names = [name for name in space.datasets() if space.current(name).features is not None]
    if not space.datasets():
        space.current("any dataset")  # raises, and says what to do
    if not names:
        raise WorkspaceError("Features need a run of estimate.", "only annotations", "Run `xycd estimate` first.")
    return names


def refresh(root: Path, features: Features) -> Path | pd.DataFrame:
    """Bring a dataset's index up to date; its file, or its rows where it can't be written."""
    folder = features.store.folder / FOLDER
    wanted = {f"{receipt.id}.{receipt.sha256[:12]}": (key, receipt) for key, receipt in features.files}
    path = _path(folder, wanted)
    if path.exists():
        return path
    table, contents = _earlier(folder, wanted)
    tables = [table]
    for identity, (key, receipt) in wanted.items():
        if identity not in contents and (new := _table(root, features, key, receipt)) is not None:
            tables.append(new)
            contents[identity] = _name(root, features, receipt)
    table = pa.concat_tables(tables).unify_dictionaries()
    path = _path(folder, contents)  # without files that couldn't be read: they are tried again
    try:
        folder.mkdir(exist_ok=True)
        schema = _PLAIN.with_metadata({CONTENTS: json.dumps(contents)})
        with atomic_target(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for batch in table.combine_chunks().to_batches(GROUP_ROWS):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
    except (OSError, WorkspaceError):
        return table.cast(_PLAIN).to_pandas()
    for written, old in _states(folder):
        if old != path and time.time() - written > KEEP:
            old.unlink(missing_ok=True)
    return path


def _name(root: Path, features: Features, receipt: Receipt) -> str:
    """A feature file's name in the column ``file``."""
    return (features.store.folder / receipt.path).relative_to(root).as_posix()


def _path(folder: Path, identities: Iterable[str]) -> Path:
    return folder / f"{digest(sorted(identities), length=16)}.parquet"


def _states(folder: Path) -> list[tuple[float, Path]]:
    """Files of the index with the epoch second at which they were written, the newest first."""
    found = []
    for path in folder.glob("*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            found.append((path.stat().st_mtime, path))
    return sorted(found, reverse=True)


def _earlier(folder: Path, wanted: Collection[str]) -> tuple[pa.Table, dict[str, str]]:
    """Rows that the newest readable state has of the wanted files, and these files by identity."""
    for _, path in _states(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, pa.ArrowException):
            contents = json.loads((pq.read_schema(path).metadata or {})[CONTENTS])
            table = pq.read_table(path, read_dictionary=_TEXTS).select(SCHEMA.names).cast(SCHEMA)
            kept = {identity: file for identity, file in contents.items() if identity in wanted}
            if len(kept) < len(contents):
                files = pa.array(kept.values(), pa.string())
                table = table.filter(pc.is_in(table["file"].cast(pa.string()), files))
            return table, kept
    return SCHEMA.empty_table(), {}


def _table(root: Path, features: Features, key: SequenceKey, receipt: Receipt) -> pa.Table | None:
    """Rows of one feature file; None where it can't be read any more."""
    path = features.store.folder / receipt.path
    try:
        with opened(path) as file:
            number, person, status = (read_array(file, name) for name in ("frame_number", "person", "status"))
    except (OSError, KeyError):
        return None
    fixed = {"dataset": key.dataset, "subject": key.subject, "action": key.action, "camera": key.camera}
    fixed["file"] = _name(root, features, receipt)
    columns: dict[str, Any] = {name: _repeated(value, len(status)) for name, value in fixed.items()}
    columns |= {"subaction": np.full(len(status), key.subaction, np.int32), "person": person, "frame": number}
    columns["status"] = pa.array(status_names(status).tolist(), pa.string()).dictionary_encode()
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)


def _repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([text], pa.string()))
