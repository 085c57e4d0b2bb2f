"""The index of all frames with their status, as Parquet, opened with Dask.

It lies beside the feature files and is updated when it is opened: only files that are new since are read,
and of them a few numbers a row. Parts are never changed, only replaced, and count when ``index.json`` names them; so
any number of readers and refreshers get along. Where it can't be written, what is new stays in memory.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from etl.errors import WorkspaceError
from etl.results.features import Features, open_features
from etl.results.reading import status_names
from etl.store.netcdf import opened, read_array
from etl.store.partition import Receipt, digest
from etl.store.workspace import Workspace, atomic_target, write_atomically
from schemas.keys import SequenceKey

if TYPE_CHECKING:
    import dask.dataframe as dd

FOLDER: Final = "index"
LAYOUT: Final = 1
GROUP_ROWS: Final = 1 << 17  # rows of a Parquet row group, and of a Dask partition
PATIENCE: Final = 30.0  # seconds to wait for another refresh before going on without writing
KEEP: Final = 86_400.0  # seconds that parts stay after they were replaced, for readers that still use them
SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "subject", "action")),
        ("subaction", pa.int32()),
        ("camera", pa.string()),
        ("person", pa.int32()),
        ("frame", pa.int32()),
        ("status", pa.string()),
        ("file", pa.string()),
    ]
)


@dataclass(frozen=True)
class Part:
    """One Parquet file of the index.

    Parameters
    ----------
    file : str
        Its name.
    rows : int
        How many rows.
    contents : tuple of str
        Identities of the feature files in it.
    """

    file: str
    rows: int
    contents: tuple[str, ...]


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
        feature file relative to the workspace. In order of sequences within parts.

    Raises
    ------
    WorkspaceError
        When there are no features.
    """
    import dask.dataframe as dd

    root = Path(workspace)
    names = [dataset] if dataset else _estimated(root)
    pieces = []
    for name in names:
        parts, fresh = refresh(root, open_features(root, name))
        if parts:
            pieces.append(dd.read_parquet([str(path) for path in parts], split_row_groups=True))
        if len(fresh) or not parts:
            pieces.append(dd.from_pandas(fresh, npartitions=1))
    return pieces[0] if len(pieces) == 1 else dd.concat(pieces)


def _estimated(root: Path) -> list[str]:
    space = Workspace(root)
    names = [name for name in space.datasets() if space.current(name).features is not None]
    if not space.datasets():
        space.current("any dataset")  # raises, and says what to do
    if not names:
        raise WorkspaceError("Features need a run of estimate.", "only annotations", "Run `xycd estimate` first.")
    return names


def refresh(root: Path, features: Features) -> tuple[list[Path], pd.DataFrame]:
    """Bring a dataset's index up to date.

    Returns
    -------
    parts : list of Path
        Its Parquet files.
    fresh : pandas.DataFrame
        Rows that couldn't be written; mostly none.
    """
    folder = features.store.folder / FOLDER
    wanted = {_identity(receipt): (key, receipt) for key, receipt in features.files}
    parts = _parts(folder, set(wanted))
    if not _missing(wanted, parts):
        return [folder / part.file for part in parts], _frame(root, features, [])
    with contextlib.suppress(Timeout, WorkspaceError, OSError):
        folder.mkdir(exist_ok=True)
        with FileLock(folder / ".lock", timeout=PATIENCE):
            parts = _parts(folder, set(wanted))  # another may have done it meanwhile
            missing = _missing(wanted, parts)
            if missing:
                parts = _extend(folder, parts, missing, root, features)
        return [folder / part.file for part in parts], _frame(root, features, [])
    missing = _missing(wanted, parts)
    return [folder / part.file for part in parts], _frame(root, features, list(missing.values()))


def _identity(receipt: Receipt) -> str:
    return f"{receipt.id}.{receipt.sha256[:12]}"


def _missing(wanted: dict[str, tuple[SequenceKey, Receipt]], parts: Sequence[Part]) -> dict[str, Any]:
    known = {identity for part in parts for identity in part.contents}
    return {identity: item for identity, item in wanted.items() if identity not in known}


def _parts(folder: Path, wanted: set[str]) -> list[Part]:
    """Parts that hold nothing but wanted files; one with others is made anew."""
    try:
        content = json.loads((folder / "index.json").read_bytes())
        if content["layout"] != LAYOUT:
            return []
        parts = [Part(p["file"], p["rows"], tuple(p["contents"])) for p in content["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # absent or damaged: it is made anew
    return [part for part in parts if wanted.issuperset(part.contents) and (folder / part.file).exists()]


def _extend(
    folder: Path, parts: list[Part], missing: dict[str, tuple[SequenceKey, Receipt]], root: Path, features: Features
) -> list[Part]:
    """Write the rows of new files as one more part, which takes up smaller ones; the parts after that."""
    tables, contents = [], []
    for identity, (key, receipt) in missing.items():
        if (table := _table(root, features, key, receipt)) is not None:
            tables.append(table)
            contents.append(identity)
    rows = sum(table.num_rows for table in tables)
    parts = list(parts)
    taken: list[Path] = []
    # As in a log-structured merge tree: each part is more than twice as large as the next, so there are few.
    while parts and parts[-1].rows <= 2 * rows:
        last = parts.pop()
        taken.insert(0, folder / last.file)
        contents = [*last.contents, *contents]
        rows += last.rows
    if rows:
        new = Part(f"{digest(contents, length=16)}.parquet", rows, tuple(contents))
        with atomic_target(folder / new.file) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
            for batch in _batches([*(pq.ParquetFile(path) for path in taken), *tables]):
                writer.write_table(batch, row_group_size=GROUP_ROWS)
        parts.append(new)
    replaced = _replaced(folder, {part.file for part in parts})
    waiting = {file: since for file, since in replaced.items() if time.time() - since <= KEEP}
    content = {"layout": LAYOUT, "parts": [asdict(part) for part in parts], "replaced": waiting}
    write_atomically(folder / "index.json", json.dumps(content).encode())
    for file in replaced.keys() - waiting.keys():
        (folder / file).unlink(missing_ok=True)
    return parts


def _replaced(folder: Path, used: set[str]) -> dict[str, float]:
    """Parts that are there and not used, with the epoch second since which that is known."""
    since: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        since = {
            str(file): float(at) for file, at in json.loads((folder / "index.json").read_bytes())["replaced"].items()
        }
    return {p.name: since.get(p.name, time.time()) for p in folder.glob("*.parquet") if p.name not in used}


def _batches(sources: Sequence[pa.Table | pq.ParquetFile]) -> Iterator[pa.Table]:
    """Tables of about GROUP_ROWS rows of all sources, in order, as `SCHEMA` has them."""
    waiting: list[pa.Table] = []
    for source in sources:
        whole = [source] if isinstance(source, pa.Table) else map(pa.Table.from_batches, _lists(source))
        for table in whole:
            waiting.append(table.cast(SCHEMA))
            if sum(t.num_rows for t in waiting) >= GROUP_ROWS:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _lists(file: pq.ParquetFile) -> Iterator[list[pa.RecordBatch]]:
    for batch in file.iter_batches(GROUP_ROWS):
        yield [batch]


def _table(root: Path, features: Features, key: SequenceKey, receipt: Receipt) -> pa.Table | None:
    """Rows of one feature file; None where it can't be read any more."""
    path = features.store.folder / receipt.path
    try:
        with opened(path) as file:
            number, person, status = (read_array(file, name) for name in ("frame_number", "person", "status"))
    except (OSError, KeyError):
        return None
    count = len(status)
    # A dictionary of one value is a text repeated at no cost.
    fixed = {"dataset": key.dataset, "subject": key.subject, "action": key.action, "camera": key.camera}
    fixed["file"] = path.relative_to(root).as_posix()
    columns: dict[str, Any] = {name: _repeated(value, count) for name, value in fixed.items()}
    columns |= {"subaction": np.full(count, key.subaction, np.int32), "person": person, "frame": number}
    columns["status"] = pa.array(status_names(status).tolist(), pa.string())
    return pa.table({name: columns[name] for name in SCHEMA.names})


def _repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([text], pa.string()))


def _frame(root: Path, features: Features, files: Sequence[tuple[SequenceKey, Receipt]]) -> pd.DataFrame:
    """Rows of feature files in memory."""
    tables = [table for key, receipt in files if (table := _table(root, features, key, receipt)) is not None]
    return pa.concat_tables([SCHEMA.empty_table(), *(table.cast(SCHEMA) for table in tables)]).to_pandas()
