"""Compare two workspaces array by array, after a change that must change no value.

`python -m tests.compare_workspaces OLD NEW` prints what differs and ends with status 1 where anything does.

Annotations, features and training files must have the same names, shapes, dtypes and values, NaN included; so must the
folders, whose names are the stage keys. The order of the rows counts; times, versions and checksums don't.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr


def arrays_of(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a NetCDF or npz file by name."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            yield from ((name, file[name]) for name in file.files if name != "metadata")
    else:
        with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as ds:
            yield from ((str(name), variable.values) for name, variable in ds.variables.items())


def files_of(workspace: Path) -> set[str]:
    """Return the paths of the files that hold arrays."""
    return {str(p.relative_to(workspace)) for p in workspace.rglob("*") if p.suffix in (".nc", ".npz")}


def differences(old: Path, new: Path) -> Iterator[str]:
    """Yield what differs between two workspaces, a line each."""
    before, after = files_of(old), files_of(new)
    yield from (f"only in {old}: {name}" for name in sorted(before - after))
    yield from (f"only in {new}: {name}" for name in sorted(after - before))
    for name in sorted(before & after):
        first, second = dict(arrays_of(old / name)), dict(arrays_of(new / name))
        if first.keys() != second.keys():
            yield f"{name}: variables {sorted(first.keys() ^ second.keys())} are in one file only"
        for key in first.keys() & second.keys():
            a, b = first[key], second[key]
            if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
                yield f"{name}: {key} differs ({a.dtype} {a.shape}, {b.dtype} {b.shape})"


def main(old: Path, new: Path) -> int:
    """Print the differences; 1 if there are any, or no file to compare."""
    found, count = list(differences(old, new)), len(files_of(old))
    print("\n".join([*found, f"{count:,} files compared, {len(found):,} differences"]))
    return int(bool(found) or not count)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
