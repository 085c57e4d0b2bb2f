"""3DPW's pickles, read without running anything in them.

A pickle is a program: whatever globals it names, it can call. Here a global is one of a fixed list
(numpy arrays, dtypes and scalars, plain containers), and even those are stand-ins of ours that check what
they are given; any other global ends the reading.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etl.datasets.checks import COPY_AGAIN, parsing, require_file
from etl.errors import DatasetError

LARGEST: Final = 1 << 30  # bytes; 3DPW's largest is below 20 MB
SIMPLE_KINDS: Final = frozenset("biufcSUO")


def read_pickle(path: Path) -> Any:
    """Values of a pickle of numpy arrays and plain containers, as Python 2 or 3 wrote it.

    Python 2's strings are decoded as latin-1, in which numpy's binary data survives.

    Raises
    ------
    DatasetError
        When the pickle names any other global (the message has its name), is truncated, or is no pickle.
    """
    require_file(path)
    size = path.stat().st_size
    if size > LARGEST:
        raise DatasetError(f"{path} must have at most {LARGEST} bytes.", f"{size} bytes", COPY_AGAIN)
    with parsing(path, "pickle of arrays"), path.open("rb") as file:
        return _Restricted(path, file).load()


class _Array(np.ndarray):
    """An array that a pickle fills: what numpy itself would take on trust is checked here."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError(f"an array has a dtype, not {type(dtype).__name__}")
        extents = tuple(_extent(value) for value in shape)
        count = int(np.prod(extents, dtype=object))
        if dtype.value.hasobject:
            if not isinstance(data, list) or len(data) != count:
                raise pickle.UnpicklingError(f"an object array {extents} has a list of {count} values")
            content: list[Any] | bytes = data
        else:
            content = _as_bytes(data)
            if len(content) != count * dtype.value.itemsize:
                raise pickle.UnpicklingError(
                    f"an array {extents} of {dtype.value} has {count * dtype.value.itemsize} bytes, not {len(content)}"
                )
        super().__setstate__((1, extents, dtype.value, int(bool(fortran)), content))  # type: ignore[arg-type]


class _Dtype:
    """Stand-in of a dtype: simple kinds only, and of their state only the byte order."""

    __slots__ = ("value",)

    def __init__(self, spec: Any, *_: Any) -> None:
        self.value = np.dtype(str(spec))
        if self.value.kind not in SIMPLE_KINDS or self.value.names is not None or self.value.subdtype is not None:
            raise pickle.UnpicklingError(f"dtypes are plain numbers or text, not {self.value}")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"a byte order is <, >, | or =, not {order!r}")
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("dtypes are plain numbers or text, without fields")
        if order in "<>":
            self.value = self.value.newbyteorder(order)


class _Allowed:
    """What a permitted global becomes: it can be called, and a pickle can't change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle doesn't alter what it calls")


def _extent(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise pickle.UnpicklingError(f"an extent is a number from 0, not {value!r}")
    return value


def _as_bytes(data: Any) -> bytes:
    """Bytes of a Python 2 string (latin-1 by now) or of a Python 3 bytes object."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if isinstance(data, bytes):
        return data
    raise pickle.UnpicklingError(f"the data of an array is bytes, not {type(data).__name__}")


def _new_array(*_: Any) -> NDArray[Any]:
    # The shape and dtype given here are numpy's placeholders; the state that follows has the real ones.
    return _Array((0,), np.int8)


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.value.hasobject:
        raise pickle.UnpicklingError("a scalar has a dtype of plain numbers or text")
    return np.frombuffer(_as_bytes(data), dtype.value, count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # Python 3 writes bytes in this way for old protocols.
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise pickle.UnpicklingError(f"bytes are encoded as latin1, not {encoding!r}")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    # Python 3 writes b"" as a call of bytes for old protocols; given a number, bytes would allocate at will.
    return b""


_GLOBALS: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("numpy", "ndarray"): _new_array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, "bytes"): _empty_bytes for module in ("builtins", "__builtin__")},
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (complex, list, tuple, dict, set, frozenset)
    },
}


class _Restricted(pickle.Unpickler):
    """An unpickler for which only `_GLOBALS` exist."""

    def __init__(self, path: Path, file: Any) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _Allowed(_GLOBALS[module, name])
        except KeyError:
            raise DatasetError(
                f"{self._path} must hold numpy arrays and plain containers only.",
                f"the global {module}.{name}",
                "Nothing of it was run. " + COPY_AGAIN,
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"a reference {pid!r} to something outside of the file")
