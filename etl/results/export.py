"""Selections of features as files that other tools read: NetCDF, Zarr, CSV and Parquet."""

from __future__ import annotations

import os
import shutil
import socket
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from etl.errors import QueryError
from etl.results.labelled import bytes_of_row, in_memory, no_rows, text_types, variables_of
from etl.results.reading import Block
from etl.results.tables import to_table
from etl.store.disk import disk_error
from etl.store.workspace import atomic_target
from schemas.features import EMBEDDINGS

if TYPE_CHECKING:
    from etl.results.features import Features

SUFFIXES: Final = (".nc", ".zarr", ".csv", ".parquet")
PIECE_BYTES: Final = 64 << 20  # of a Zarr store that are in memory at once
MOST_ROWS: Final = 8192  # of a chunk: 3 MB of features


def write_rows(selected: Features, path: Path, *, annotations: bool = False) -> None:
    """Write the selected rows to a file, by its suffix.

    Parameters
    ----------
    selected : Features
        What to write.
    path : Path
        ``.nc`` or ``.zarr`` (labelled arrays), ``.csv`` or ``.parquet`` (one line a frame and joint).
    annotations : bool
        With the annotations; in tables, with the 2D error.

    Raises
    ------
    QueryError
        When the suffix is another.
    WorkspaceError
        When the disk refuses.
    """
    if path.suffix not in SUFFIXES:
        raise QueryError(f"A query is written as {', '.join(SUFFIXES)}.", repr(path.name), "Give such a name to --to.")
    if path.suffix == ".zarr":
        write_zarr(selected, path, annotations=annotations)
        return
    with atomic_target(path) as temporary:
        if path.suffix == ".nc":
            ds = selected.to_xarray(annotations=annotations)
            for name in set(EMBEDDINGS) & set(ds.variables):  # NetCDF has no half precision
                bits = ds[name].copy(data=ds[name].data.view(np.uint16))
                ds[name] = bits.assign_attrs(encoding="bits of float16")
            ds.to_netcdf(temporary, engine="netcdf4", format="NETCDF4")
        elif path.suffix == ".csv":
            _write_csv(selected, temporary, annotations)
        else:
            _write_parquet(selected, temporary, annotations)


def _tables(selected: Features, annotations: bool) -> Iterator[Any]:
    """Tables of the files, after one without rows, which has the columns where there is no file at all."""
    layout = selected.layout
    variables = ("features", "joint_valid", *(("error_px",) if annotations else ()))
    yield to_table(no_rows(selected.dataset, layout, variables), layout)
    for block in selected.blocks(variables):
        yield to_table(block, layout)


def _write_csv(selected: Features, path: Path, annotations: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for i, table in enumerate(_tables(selected, annotations)):
            table.to_csv(file, index=False, header=i == 0)


def _write_parquet(selected: Features, path: Path, annotations: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = _tables(selected, annotations)
    first = next(tables)
    # Said, and not read from values: a column of objects without rows would be one of nulls.
    kinds = {
        n: pa.from_numpy_dtype(d) if isinstance(d, np.dtype) and d.kind in "biuf" else pa.string()
        for n, d in first.dtypes.items()
    }
    schema = pa.schema(kinds.items())
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(pa.Table.from_pandas(table, schema, preserve_index=False).cast(schema))


def write_zarr(
    selected: Features, path: Path, *, annotations: bool = False, variables: Sequence[str] | None = None
) -> Path:
    """Write the selected rows as one Zarr store; see `Features.consolidate`.

    Format 2: every reader knows it, and it has text of fixed width.
    """
    try:
        import zarr
    except ImportError as error:
        raise QueryError("A Zarr store needs the package zarr.", str(error), "pip install 'xycd[zarr]'") from error
    if path.exists() and not (path / ".zgroup").exists():
        raise QueryError(
            "The target must be a Zarr store or a new path.", f"something else at {path}", "Give another name."
        )
    layout = selected.layout
    chosen = variables_of(layout, annotations=annotations, wanted=variables)
    sources = selected.sources()
    types = text_types(sources)
    rows = _piece_rows(bytes_of_row(layout, chosen))
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with warnings.catch_warnings():
            # zarr warns of what format 3 lacks; this is format 2.
            warnings.simplefilter("ignore")
            for i, piece in enumerate(_pieces(selected.blocks(chosen), rows)):
                ds = in_memory(piece, layout, chosen, types).assign_attrs(selected.attributes())
                if i == 0:
                    chunks = {n: (rows, *v.shape[1:]) for n, v in ds.variables.items() if v.dims[:1] == ("frame",)}
                    encoding = {name: {"chunks": sizes} for name, sizes in chunks.items()}
                    ds.to_zarr(temporary, mode="w", zarr_format=2, consolidated=False, encoding=encoding)
                else:
                    ds.to_zarr(temporary, append_dim="frame", zarr_format=2, consolidated=False)
            zarr.consolidate_metadata(temporary, zarr_format=2)
        _replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _replace(temporary: Path, path: Path) -> None:
    """Put a folder in the place of another."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _piece_rows(row_bytes: int) -> int:
    """Rows of a piece, which is a chunk: a power of two."""
    return int(2 ** np.clip(np.floor(np.log2(PIECE_BYTES / row_bytes)), 6, np.log2(MOST_ROWS)))


def _pieces(blocks: Iterator[Block], rows: int) -> Iterator[list[Block]]:
    """Blocks in lists of exactly `rows` rows each, but the last."""
    waiting: list[Block] = []
    for block in blocks:
        waiting.append(block)
        while (total := sum(map(len, waiting))) >= rows:
            last = waiting.pop()
            cut = len(last) - (total - rows)
            yield [*waiting, last.part(slice(0, cut))]
            waiting = [last.part(slice(cut, None))]
    yield waiting
