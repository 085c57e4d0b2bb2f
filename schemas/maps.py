"""The maps file: feature maps of the networks, kept beside a feature file, with the same rows in the same order.

It is a Zarr store (format 2) in one zip file. A *stream* is one of the networks: ``pose``, whose map covers the crop of
the person, or ``depth``, whose map covers the whole image.

| variable | dims | dtype | |
|---|---|---|---|
| <stream>_feature_map | frame, <stream>_channel, <stream>_row, <stream>_column | float16 | means over the cells |
| <stream>_px_to_cell | frame, cell_axis, term | float64 | map from image px to cells: column, row of x, y, 1 |
| <stream>_grid | frame, cell_axis | int16 | columns and rows of the network's own map, before averaging |
| frame_number, person | frame | int32 | as in the feature file |

Pixels are those of the full image, 0-based, centre of the top-left pixel at (0, 0); the first cell has its
centre at (0, 0) too. Maps are NaN, and grids 0, where the feature file's status isn't ok.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from schemas.errors import SchemaError
from schemas.keys import SequenceKey
from schemas.validation import require_schema, require_variables

VERSION: Final = 1
STREAMS: Final = ("pose", "depth")
LABELS: Final = {"cell_axis": ("column", "row"), "term": ("x", "y", "1")}
VARIABLES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    name: entry
    for stream in STREAMS
    for name, entry in {
        f"{stream}_feature_map": (("frame", f"{stream}_channel", f"{stream}_row", f"{stream}_column"), "float16"),
        f"{stream}_px_to_cell": (("frame", "cell_axis", "term"), "float64"),
        f"{stream}_grid": (("frame", "cell_axis"), "int16"),
    }.items()
}


def empty(
    key: SequenceKey,
    frame_number: NDArray[np.integer],
    person: NDArray[np.integer],
    shapes: Mapping[str, tuple[int, int, int]],
    layers: Mapping[str, str],
) -> xr.Dataset:
    """Return a dataset of rows without maps yet, to be filled in place.

    Parameters
    ----------
    key : SequenceKey
        Sequence of the frames.
    frame_number, person : (N,) int
        Frame and person of each row, 0-based.
    shapes : mapping of str to (int, int, int)
        Channels, rows and columns of the map, by stream.
    layers : mapping of str to str
        Layer of the network that gives the map, by stream.
    """
    n = len(frame_number)
    data: dict[str, Any] = {}
    for stream, shape in shapes.items():
        sizes = {f"{stream}_feature_map": shape, f"{stream}_px_to_cell": (2, 3), f"{stream}_grid": (2,)}
        for name, rest in sizes.items():
            dims, dtype = VARIABLES[name]
            data[name] = (dims, np.full((n, *rest), 0 if dtype == "int16" else np.nan, dtype))
    ds = xr.Dataset(
        data,
        coords={
            **{dim: list(names) for dim, names in LABELS.items()},
            "frame_number": (("frame",), np.asarray(frame_number, np.int32)),
            "person": (("frame",), np.asarray(person, np.int32)),
        },
        attrs={
            "schema": f"xycd maps {VERSION}",
            **asdict(key),
            "layers": json.dumps(dict(layers), sort_keys=True),
        },
    )
    for stream in shapes:
        ds[f"{stream}_feature_map"].attrs["layer"] = layers[stream]
    return ds


def validate(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` if it is a dataset of maps.

    Raises
    ------
    SchemaError
        Naming the first variable that doesn't fit.
    """
    fix = "Remove the file and run `xycd estimate` again."
    require_schema(ds, f"xycd maps {VERSION}", fix)
    there = [stream for stream in STREAMS if f"{stream}_feature_map" in ds]
    if not there:
        raise SchemaError("A maps file must have a map of pose or depth.", "no map", fix)
    wanted = {name: entry for name, entry in VARIABLES.items() if name.partition("_")[0] in there}
    wanted |= dict.fromkeys(("frame_number", "person"), (("frame",), "int32"))
    require_variables(ds, wanted, fix)
    return ds
