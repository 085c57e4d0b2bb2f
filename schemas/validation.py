"""Checks that the schemas of NetCDF and Zarr files share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from schemas.errors import SchemaError
from schemas.skeletons import H36M_17

Variables = Mapping[str, tuple[tuple[str, ...], str]]
"""Dimensions and dtype by the variable's name."""


def require_schema(ds: xr.Dataset, schema: str, fix: str) -> None:
    """Refuse `ds` unless its attribute `schema` has this value."""
    if ds.attrs.get("schema") != schema:
        raise SchemaError(
            f"A file of this kind must have the schema {schema!r}.", f"schema {ds.attrs.get('schema')!r}", fix
        )


def require_variables(ds: xr.Dataset, wanted: Variables, fix: str) -> None:
    """Refuse `ds` if one of the wanted variables is absent, or has other dimensions or another dtype."""
    for name, (dims, dtype) in wanted.items():
        if name not in ds.variables:
            there = ", ".join(sorted(map(str, ds.variables)))
            raise SchemaError(f"The file must have the variable {name!r}.", f"only the variables {there}", fix)
        if ds[name].dims != dims or ds[name].dtype != np.dtype(dtype):
            found = f"{name!r} is {ds[name].dtype} over {ds[name].dims}"
            raise SchemaError(f"It must be {dtype} over {dims}.", found, fix)


def require_joints(ds: xr.Dataset, fix: str) -> None:
    """Refuse `ds` unless its coordinate `joint` names the joints of H36M_17, in their order."""
    found = ds["joint"].values.tolist()
    if tuple(found) != H36M_17.joints:
        raise SchemaError("Joints must be those of H36M_17, in its order.", f"joints {found}", fix)
