"""Raw files, read safely: whatever is wrong with one becomes a DatasetError that names file, rule and fix.

Nothing here unpickles, resolves XML entities, or trusts a shape. A reader reads a file by one of the
``read_*`` functions and then states what each array must be with `require_array`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element

import cdflib
import defusedxml.ElementTree
import h5py
import numpy as np
from numpy.typing import NDArray

from etl.errors import DatasetError

COPY_AGAIN: Final = "Copy or unpack the file again from the release."
LARGEST_ARRAY: Final = 4 << 30  # bytes; the largest array of any supported release is below 100 MB

Extent = int | str
"""A number that must be equal, or a name (``"F"``) that stands for any number; equal names, equal numbers."""


def require_folder(path: Path, holds: str) -> Path:
    """Return `path` if it is a folder; `holds` says what is expected in it."""
    if not path.is_dir():
        found = "a file" if path.exists() else "no such folder"
        raise DatasetError(f"{path} must be a folder with {holds}.", found, f"Check the path{_sibling_hint(path)}.")
    return path


def require_file(path: Path, smallest: int = 1) -> Path:
    """Return `path` if it is a file of at least `smallest` bytes."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DatasetError(f"{path} must be a file.", found, f"Unpack the release completely{_sibling_hint(path)}.")
    size = path.stat().st_size
    if size < smallest:
        raise DatasetError(f"{path} must have at least {smallest} bytes.", f"{size} bytes", COPY_AGAIN)
    return path


def require_array(
    path: Path,
    name: str,
    array: Any,
    shape: Sequence[Extent],
    dtype: str = "float",
    finite: bool = True,
) -> NDArray[Any]:
    """Return `array` if it is what the release says.

    Parameters
    ----------
    path, name : Path, str
        The file and the variable in it, for the message.
    array : array-like
        What was read.
    shape : sequence of int or str
        Expected extents; a str stands for any extent of at least 1, the same str for the same extent.
    dtype : {"float", "int", "number", "bool", "any"}
        ``float`` accepts floating dtypes, ``int`` integers, ``number`` both; ``bool`` accepts
        booleans and numbers that are all 0 or 1 and returns booleans.
    finite : bool
        Refuse NaN and infinity.

    Raises
    ------
    DatasetError
        Naming file, variable, rule and what was found.
    """
    wanted = "(" + ", ".join(str(extent) for extent in shape) + ("," if len(shape) == 1 else "") + ")"
    try:
        values = np.asarray(array)
    except ValueError as error:  # ragged nested lists
        raise DatasetError(
            f"{name!r} of {path} must be an array {wanted}.", f"ragged values ({error})", COPY_AGAIN
        ) from error
    bound: dict[str, int] = {}
    fits = values.ndim == len(shape) and all(
        (bound.setdefault(extent, size) == size and size > 0) if isinstance(extent, str) else extent == size
        for extent, size in zip(shape, values.shape, strict=True)
    )
    if not fits:
        raise DatasetError(f"{name!r} of {path} must have shape {wanted}.", f"{values.shape}", COPY_AGAIN)
    kinds = {"float": "f", "int": "iu", "number": "fiu", "bool": "bfiu", "any": values.dtype.kind}[dtype]
    if values.dtype.kind not in kinds:
        raise DatasetError(f"{name!r} of {path} must have a dtype of kind {dtype}.", f"{values.dtype}", COPY_AGAIN)
    if dtype == "bool":
        if values.dtype.kind != "b" and not np.isin(values, (0, 1)).all():
            odd = values[~np.isin(values, (0, 1))].reshape(-1)[0]
            raise DatasetError(f"{name!r} of {path} must be 0 or 1 everywhere.", f"{odd}", COPY_AGAIN)
        return values.astype(bool)
    if finite and values.dtype.kind == "f":
        bad = ~np.isfinite(values)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            found = f"{int(bad.sum())} values that aren't, the first ({values[first]}) at {first}"
            raise DatasetError(f"{name!r} of {path} must be finite everywhere.", found, COPY_AGAIN)
    return values


def require_key(path: Path, name: str, values: Mapping[str, Any]) -> Any:
    """``values[name]``, or an error that lists what there is and the nearest name."""
    if name not in values:
        there = sorted(str(key) for key in values if not str(key).startswith("__"))
        raise DatasetError(
            f"{path} must have {name!r}.", f"only {_listing(there)}{_nearest_hint(name, there)}", COPY_AGAIN
        )
    return values[name]


def require_known(what: str, wanted: Iterable[str] | None, known: Iterable[str]) -> None:
    """Refuse names in `wanted` that aren't in `known`, with the nearest valid one.

    Parameters
    ----------
    what : str
        What the names are, in the singular: ``"subject"``.
    wanted : iterable of str, optional
        None passes.
    known : iterable of str
        All valid names.
    """
    names = list(known)
    for name in wanted or ():
        if name not in names:
            near = nearest(name, names)
            fix = f"Did you mean {near!r}?" if near else f"Use one of {_listing(names)}."
            raise DatasetError(f"Every {what} must be one of {_listing(names)}.", repr(name), fix)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like `name`, letter case aside, or None where none is near."""
    by_fold = {candidate.casefold(): candidate for candidate in names}
    found = difflib.get_close_matches(str(name).casefold(), list(by_fold), n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


@contextmanager
def parsing(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser of foreign files raises inside the block into a DatasetError about `path`."""
    try:
        yield
    except DatasetError:
        raise
    except PermissionError as error:
        raise DatasetError(
            f"{path} must be a readable {kind}.", "permission denied", "Ask its owner, or chmod it."
        ) from error
    except Exception as error:  # parsers raise anything at all on damaged input: struct.error, KeyError, OSError …
        text = " ".join(str(error).split())[:200] or "no message"
        raise DatasetError(
            f"{path} must be a readable {kind}.", f"{type(error).__name__}: {text}", COPY_AGAIN
        ) from error


def read_cdf(path: Path, name: str) -> NDArray[Any]:
    """Variable `name` of a NASA CDF file."""
    require_file(path)
    with parsing(path, "CDF file"):
        cdf = cdflib.CDF(path)
        info = cdf.cdf_info()
        there = [*info.rVariables, *info.zVariables]
        require_key(path, name, dict.fromkeys(there))
        about = cdf.varinq(name)
        size = (about.Last_Rec + 1) * int(np.prod([*about.Dim_Sizes, 8], dtype=np.float64))
        _require_size(path, name, size)
        values = cdf.varget(name)
        if values is None:
            raise DatasetError(f"{name!r} of {path} must have values.", "none", COPY_AGAIN)
        return np.asarray(values)


def read_json(path: Path) -> Any:
    """Values of a JSON file."""
    require_file(path)
    with parsing(path, "JSON file"):
        return json.loads(path.read_bytes())


def read_text(path: Path) -> str:
    """Text of a UTF-8 file."""
    require_file(path)
    with parsing(path, "text file"):
        return path.read_text(encoding="utf-8")


def read_xml(path: Path) -> Element:
    """Root of an XML file; entities and external references are refused."""
    require_file(path)
    with parsing(path, "XML file without entities"):
        root = defusedxml.ElementTree.parse(path, forbid_dtd=False).getroot()
        assert isinstance(root, Element)
        return root


def read_mat(path: Path, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """Variables `names` of a MATLAB file up to v7 (cells are object arrays), and those of `optional` that it has."""
    import scipy.io  # slow, and one dataset's alone

    require_file(path)
    wanted, others = list(names), list(optional)
    with parsing(path, "MATLAB file (v5 to v7)"):
        values = scipy.io.loadmat(path, variable_names=[*wanted, *others])
        if not set(wanted) <= set(values):
            values = dict.fromkeys(name for name, *_ in scipy.io.whosmat(path))
    found = {name: require_key(path, name, values) for name in wanted}
    return found | {name: values[name] for name in others if name in values}


def read_hdf5(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Datasets `names` of an HDF5 file (MATLAB v7.3 is one), in HDF5's order of axes."""
    require_file(path)
    found: dict[str, NDArray[Any]] = {}
    with parsing(path, "HDF5 file (MATLAB v7.3)"), h5py.File(path, "r") as file:
        for name in names:
            require_key(path, name, dict.fromkeys(file))
            dataset = file[name]
            if not isinstance(dataset, h5py.Dataset):
                raise DatasetError(f"{name!r} of {path} must be a dataset.", type(dataset).__name__, COPY_AGAIN)
            _require_size(path, name, dataset.nbytes)
            found[name] = np.asarray(dataset[()])
    return found


def _require_size(path: Path, name: str, size: int) -> None:
    """Refuse what a header declares to be enormous before it is allocated."""
    if size > LARGEST_ARRAY:
        raise DatasetError(
            f"{name!r} of {path} must have at most {LARGEST_ARRAY >> 30} GiB.",
            f"{size / (1 << 30):.1f} GiB",
            COPY_AGAIN,
        )


def _listing(names: Sequence[str], most: int = 12) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _nearest_hint(name: str, names: Iterable[str]) -> str:
    near = nearest(name, names)
    return f"; nearest is {near!r}" if near else ""


def _sibling_hint(path: Path) -> str:
    """A parenthesis that names the nearest thing beside an absent path."""
    if path.exists() or not path.parent.is_dir():
        return ""
    near = nearest(path.name, (other.name for other in path.parent.iterdir()))
    return f" (there is {near!r} beside it)" if near else ""
