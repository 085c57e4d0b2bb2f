"""Training files as labelled arrays: an XYCD npz, or a folder of npy files, mapped into memory rather than read."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.lib import format as npy
from numpy.typing import NDArray

from schemas import xycd
from schemas.errors import SchemaError
from schemas.skeletons import H36M_17

Array = NDArray[Any]

# Names of the axes after the rows, and of what lies along the last one.
_PIXEL: Final = ("image_axis", ("x", "y"))
_AXES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "center": _PIXEL,
    "part": ("part_column", ("x", "y", "visibility")),
    "S": ("camera_column", ("x", "y", "z", "visibility")),
    "predicted_keypoints": _PIXEL,
    "xycd": ("xycd_column", ("x", "y", "confidence", "depth")),
    "summary_casp_descriptor_10d": ("summary_column", xycd.SUMMARY_COLUMNS),
    "casp_descriptors": ("vector_column", ()),
    "rtm_joint_feats": ("pose_channel", ()),
    "dav2_joint_feats": ("depth_channel", ()),
}
COORDINATES: Final = ("imgname", "subject", "action", "subaction", "camera", "frame", "person")
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # signature … lengths of the name and of the extra field


def open_xycd(path: Path | str) -> xr.Dataset:
    """Open a training file.

    Arrays are mapped from the file, read-only: a file larger than the memory opens at once, and only what is used is
    read. Compressed members, which xycd doesn't write, are read as a whole.

    Parameters
    ----------
    path : Path
        The npz, or the folder of npy files.

    Returns
    -------
    xr.Dataset
        The keys of `schemas.xycd` over ``row`` and ``joint``; imgname, subject, action, subaction, camera, frame and
        person are coordinates along ``row``. The attribute ``metadata`` is the file's JSON.

    Raises
    ------
    SchemaError
        When it isn't an XYCD file.
    """
    path = Path(path)
    arrays = dict(_folder(path) if path.is_dir() else _npz(path))
    if missing := [name for name, key in xycd.KEYS.items() if key.group == "always" and name not in arrays]:
        raise SchemaError(
            "An XYCD file must have the keys of schemas.xycd.", f"no {', '.join(missing)} in {path}", _FIX
        )
    metadata = str(arrays.pop("metadata"))
    data: dict[str, Any] = {}
    coords: dict[str, Any] = {"joint": list(H36M_17.joints)}
    for name, values in arrays.items():
        dims = _dims(name, values)
        key = xycd.KEYS.get(name)
        attributes = {"units": key.unit, "long_name": key.text} if key else {}
        (coords if name in COORDINATES else data)[name] = (dims, values, attributes)
        if name in _AXES and _AXES[name][1]:
            coords[_AXES[name][0]] = list(_AXES[name][1])
        elif name == "casp_descriptors":
            coords["vector_column"] = list(_vector_columns(metadata))
    try:
        return xr.Dataset(data, coords, attrs={"metadata": metadata})
    except ValueError as error:  # xarray's, for sizes that don't fit each other
        raise SchemaError("The arrays of an XYCD file must have matching sizes.", f"{path}: {error}", _FIX) from error


_FIX: Final = "Run `xycd merge` again."


def _dims(name: str, values: Array) -> tuple[str, ...]:
    """Names of an array's axes; those of keys that aren't ours are numbered."""
    if name not in xycd.KEYS:
        return ("row", *(f"{name}_{i}" for i in range(1, values.ndim)))
    last = _AXES[name][0] if name in _AXES else ""
    return tuple({"N": "row", len(H36M_17.joints): "joint"}.get(size, last) for size in xycd.KEYS[name].shape)


def _vector_columns(metadata: str) -> tuple[str, ...]:
    """Names of the descriptor's columns, each once."""
    extremes = json.loads(metadata).get("casp_extremes")
    names = [xycd.MINMAX_COLUMNS.get(n, n) if extremes == "minmax" else n for n in xycd.VECTOR_COLUMNS]
    # The median comes twice; labels must differ.
    return tuple(f"{name}_again" if name in names[:i] else name for i, name in enumerate(names))


def _folder(path: Path) -> Mapping[str, Array]:
    try:
        return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(path.glob("*.npy"))}
    except ValueError as error:
        raise SchemaError("An XYCD file must be an npz or a folder of npy.", f"{path}: {error}", _FIX) from error


def _npz(path: Path) -> Mapping[str, Array]:
    """Members of an npz, mapped where they are stored as they are."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            found: dict[str, Array | None] = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                found[name] = _stored(file, path, info) if info.compress_type == zipfile.ZIP_STORED else None
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] if values is None else values for name, values in found.items()}
    except (OSError, ValueError, struct.error, zipfile.BadZipFile) as error:
        raise SchemaError("An XYCD file must be an npz or a folder of npy.", f"{path}: {error}", _FIX) from error


def _stored(file: Any, path: Path, info: zipfile.ZipInfo) -> Array | None:
    """An uncompressed member, mapped; None if it has no values to map."""
    file.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no member at {info.header_offset}")
    start = file.seek(name + extra, 1)
    version = npy.read_magic(file)
    read: Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.hasobject or size == 0 or not shape:
        return None  # read by numpy, which refuses objects
    if file.tell() + size > start + info.file_size:
        raise ValueError(f"the array {info.filename} is longer than its member")
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
