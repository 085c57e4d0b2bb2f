"""Blocks of features as labelled arrays: in memory, or lazily with dask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.errors import QueryError, WorkspaceError
from etl.results.reading import ANNOTATION_VARIABLES, FEATURE_VARIABLES, Block, Layout, RowFilter, Source, read_block
from schemas import annotation, features, maps
from schemas.features import EMBEDDINGS
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17

if TYPE_CHECKING:
    import dask.array as da

Array = NDArray[Any]

NAMES: Final = ("subject", "action", "subaction", "camera")


def variables_of(layout: Layout, *, annotations: bool, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Variables of a labelled dataset.

    Parameters
    ----------
    layout : Layout
        That of the files.
    annotations : bool
        Also those of the annotation.
    wanted : sequence of str, optional
        Only these.

    Raises
    ------
    QueryError
        When one of `wanted` isn't there.
    """
    kept = (variable.name for variable in layout.maps)
    there = (*layout.variables, *kept, *((*ANNOTATION_VARIABLES, "error_px") if annotations else ()))
    if unknown := sorted(set(wanted or ()) - set(there)):
        raise QueryError(
            "The variables asked for must exist.",
            f"no {', '.join(unknown)}; there are {', '.join(there)}",
            "Give some of these; those of the annotation need annotations=True, maps maps=True.",
        )
    return there if wanted is None else tuple(name for name in there if name in wanted)


def text_types(sources: Iterable[Source]) -> dict[str, np.dtype[Any]]:
    """Types of the coordinates that say where a row is from, wide enough for all of `sources`."""
    sources = list(sources)
    values = {name: {str(getattr(source.key, name)) for source in sources} for name in ("subject", "action", "camera")}
    values["split"] = {source.split for source in sources}
    widths = {name: max(map(len, texts), default=1) for name, texts in values.items()}
    return {name: np.dtype(f"<U{max(width, 1)}") for name, width in widths.items()} | {"subaction": np.dtype(np.int32)}


def in_memory(
    blocks: Iterable[Block],
    layout: Layout,
    variables: Sequence[str],
    types: Mapping[str, np.dtype[Any]] | None = None,
) -> xr.Dataset:
    """One dataset of all blocks' rows, in memory; `types` as `text_types` gives them, where several must agree."""
    blocks = [block for block in blocks if len(block)]
    arrays = {}
    for name in ("frame_number", "person", *variables):
        # An empty one first, so that nothing at all has the right shape too.
        arrays[name] = np.concatenate([_empty(name, layout), *(block.arrays[name] for block in blocks)])
    return _labelled(arrays, [block.source for block in blocks], [len(block) for block in blocks], layout, types)


def lazily(
    sources: Sequence[Source], layout: Layout, variables: Sequence[str], wanted: RowFilter, counts: Sequence[int]
) -> xr.Dataset:
    """One dataset of all rows whose arrays are read when they are computed, file by file.

    Parameters
    ----------
    sources : sequence of Source
        The files, at least one.
    layout, variables
        What is in them, and what is wanted.
    wanted : RowFilter
        Which rows.
    counts : sequence of int
        How many rows each file has of these.
    """
    chosen = [(source, count) for source, count in zip(sources, counts, strict=True) if count]
    sources, counts = [source for source, _ in chosen], [count for _, count in chosen]
    from dask.base import tokenize

    token = tokenize(sources, layout, repr(wanted))
    arrays = {n: _dask(n, sources, counts, layout, wanted, token) for n in ("frame_number", "person", *variables)}
    return _labelled(arrays, sources, counts, layout)


def _dask(
    name: str, sources: Sequence[Source], counts: Sequence[int], layout: Layout, wanted: RowFilter, token: str
) -> da.Array | Array:
    import dask.array as da

    empty = _empty(name, layout)
    if not sources:
        return empty
    key = f"xycd-{name}-{token}"
    rest = (0,) * (empty.ndim - 1)
    graph = {(key, i, *rest): (_compute, name, s, layout, wanted) for i, s in enumerate(sources)}
    chunks = (tuple(counts), *((size,) for size in empty.shape[1:]))
    return da.Array(graph, key, chunks, dtype=empty.dtype)


def _compute(name: str, source: Source, layout: Layout, wanted: RowFilter) -> Array:
    """A variable of one file.

    Raises
    ------
    WorkspaceError
        When the file can't be read: a lazy array has a place for its rows, and can't leave them out any more.
    """
    try:
        return read_block(source, layout, (name,), wanted).arrays[name]
    except (OSError, KeyError) as error:
        raise WorkspaceError(
            "The files of a lazy selection must be readable.",
            f"{name} of {source.path}: {error}",
            "Run `xycd estimate --verify`, which makes damaged files again; or load() what can be read.",
        ) from error


def _labelled(
    arrays: dict[str, Any],
    sources: Sequence[Source],
    counts: Sequence[int],
    layout: Layout,
    types: Mapping[str, np.dtype[Any]] | None = None,
) -> xr.Dataset:
    """Arrays by variable, rows along the first axis, as one dataset."""
    data = {name: (_dims(name), values, _attributes(name, layout)) for name, values in arrays.items()}
    coords: dict[str, Any] = {name: data.pop(name) for name in ("frame_number", "person")}
    for name, dtype in (types or text_types(sources)).items():
        values = [s.split if name == "split" else getattr(s.key, name) for s in sources]
        coords[name] = ("frame", np.repeat(np.array(values, dtype), counts))
    dims = {dim for names, _, _ in data.values() for dim in names}
    labels = {"joint": H36M_17.joints, "feature": layout.names, "box_edge": ("x1", "y1", "x2", "y2")}
    labels |= {"image_axis": ("x", "y"), "camera_axis": ("x", "y", "z"), **maps.LABELS}
    coords |= {dim: list(texts) for dim, texts in labels.items() if dim in dims}
    attributes: dict[str, Any] = {"dataset": sources[0].key.dataset} if sources else {}
    for name in NAMES:
        if len(common := {getattr(source.key, name) for source in sources}) == 1:
            attributes[name] = common.pop()
    return xr.Dataset(data, coords, attrs=dict(layout.attributes) | attributes)


def _dims(name: str) -> tuple[str, ...]:
    if name in EMBEDDINGS:
        return ("frame", "joint", EMBEDDINGS[name])
    if name == "error_px":
        return ("frame", "joint")
    return _known(name)[0]


def _known(name: str) -> tuple[tuple[str, ...], str]:
    for table in (features.VARIABLES, maps.VARIABLES, annotation.GROUND_TRUTH):
        if name in table:
            return table[name]
    return annotation.ALWAYS[name]


def _empty(name: str, layout: Layout) -> Array:
    """No rows of a variable."""
    for variable in layout.maps:
        if variable.name == name:
            return variable.missing(0)
    sizes = {"joint": len(H36M_17.joints), "feature": len(layout.names), "box_edge": 4, "image_axis": 2}
    sizes |= {"camera_axis": 3, **{EMBEDDINGS[n]: width for n, width in layout.channels}}
    if name in EMBEDDINGS:
        dtype = "float16"
    elif name == "error_px":
        dtype = "float64"
    else:
        dtype = _known(name)[1]
    return np.zeros((0, *(sizes[dim] for dim in _dims(name)[1:])), dtype)


def bytes_of_row(layout: Layout, variables: Iterable[str]) -> int:
    """Bytes of a row of these variables."""
    arrays = (_empty(name, layout) for name in variables)
    return sum(array.dtype.itemsize * int(np.prod(array.shape[1:])) for array in arrays)


def no_rows(dataset: str, layout: Layout, variables: Iterable[str]) -> Block:
    """A block without rows, where something needs the types of one."""
    source = Source(Path(), SequenceKey(dataset, "", "", 0, ""), "", 0, Path())
    arrays = {name: _empty(name, layout) for name in ("frame_number", "person", "status", *variables)}
    return Block(source, arrays, np.zeros((0, len(H36M_17.joints)), bool))


def _attributes(name: str, layout: Layout) -> dict[str, Any]:
    for variable in layout.maps:
        if variable.name == name:
            return dict(variable.attributes)
    if name == "error_px":
        return {"units": "px", "long_name": "distance of detected and annotated 2D joint"}
    if name in FEATURE_VARIABLES:
        template = features.empty(SequenceKey("", "", "", 0, ""), np.zeros(0, np.int32), np.zeros(0, np.int32))
        return dict(template[name].attrs)
    return {"units": annotation.UNITS[name]} if name in annotation.UNITS else {}
