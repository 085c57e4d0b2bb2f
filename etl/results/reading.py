"""Feature files as plain arrays: the chosen rows of one file at a time, joined with their annotation on request."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from etl.results.conditions import Condition
from etl.stages.join import match
from etl.store.netcdf import opened, read_array, text_of
from schemas import annotation, features, maps
from schemas.features import EMBEDDINGS, Status
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17

Array = NDArray[Any]

ROW_NAMES: Final = ("frame_number", "person", "status")
FEATURE_VARIABLES: Final = tuple(name for name in features.VARIABLES if name not in ("frame_number", "person"))
ANNOTATION_VARIABLES: Final = (*annotation.GROUND_TRUTH, "valid_annotation")
# What a condition may look at, beside the features.
ROW_COLUMNS: Final = ("frame", "person", "status", "bbox_score")
CONDITION_NAMES: Final = (
    *features.BASIC_FEATURES, *features.STATISTICS, *ROW_COLUMNS, "joint", "joint_valid", "error_px",
)  # fmt: skip


@dataclass(frozen=True)
class MapVariable:
    """A variable of the maps files.

    Parameters
    ----------
    name : str
        Of `schemas.maps.VARIABLES`.
    shape : tuple of int
        Of a row.
    attributes : tuple of (str, str)
        Such as the layer that it is from.
    """

    name: str
    shape: tuple[int, ...]
    attributes: tuple[tuple[str, str], ...] = ()

    def missing(self, rows: int) -> Array:
        """Return NaN maps for a number of rows."""
        dtype = maps.VARIABLES[self.name][1]
        return np.full((rows, *self.shape), 0 if dtype == "int16" else np.nan, dtype)


@dataclass(frozen=True)
class Layout:
    """Layout that the feature files of one stage key share.

    Parameters
    ----------
    names : tuple of str
        Features, in order.
    channels : tuple of (str, int)
        Embeddings and their widths.
    attributes : tuple of (str, str)
        Attributes that all of them have.
    maps : tuple of MapVariable
        What is in the files of maps beside them, where these are wanted.
    maps_ending : str
        How the names of those end, in place of ``.nc``.
    """

    names: tuple[str, ...] = features.BASIC_FEATURES
    channels: tuple[tuple[str, int], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    maps: tuple[MapVariable, ...] = ()
    maps_ending: str = ""

    @classmethod
    def of(cls, path: Path) -> Layout:
        """Read the layout of a feature file."""
        with opened(path) as file:
            names = tuple(str(name) for name in file["feature"].asstr()[()])
            channels = tuple((name, file[name].shape[-1]) for name in EMBEDDINGS if name in file)
            shared = ("schema", "feature_units", "stage")
            attributes = tuple((name, text_of(file.attrs[name])) for name in shared if name in file.attrs)
        return cls(names, channels, attributes)

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables that the files have, beside the coordinates of their rows."""
        return (*FEATURE_VARIABLES, *(name for name, _ in self.channels))


@dataclass(frozen=True)
class Source:
    """One finished feature file.

    Parameters
    ----------
    path : Path
        The file.
    key : SequenceKey
        Whose frames it has.
    split : str
        The sequence's split; empty where unknown.
    rows : int
        How many rows.
    annotation : Path
        The sequence's annotation file.
    """

    path: Path
    key: SequenceKey
    split: str
    rows: int
    annotation: Path


@dataclass(frozen=True)
class RowFilter:
    """Rows of a file to use; all by default.

    Parameters
    ----------
    statuses : tuple of Status, optional
        Only rows of these.
    frames : tuple of slice or tuple of int
        Only frame numbers that are in all of these; a slice includes its end, as xarray's selection by label does.
    conditions : tuple of Condition
        Only joints that fulfil all of them: other joints are NaN, and rows without any are left out.
    """

    statuses: tuple[Status, ...] | None = None
    frames: tuple[slice | tuple[int, ...], ...] = ()
    conditions: tuple[Condition, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether no row is left out."""
        return self == RowFilter()

    @property
    def names(self) -> frozenset[str]:
        """Columns that the conditions look at."""
        return frozenset[str]().union(*(condition.names for condition in self.conditions))

    def may_have(self, first: int, last: int) -> bool:
        """Whether a file of frames `first` to `last` may have wanted rows."""
        for chosen in self.frames:
            if isinstance(chosen, tuple):
                if not any(first <= number <= last for number in chosen):
                    return False
            elif last < (chosen.start or 0) or (chosen.stop is not None and first > chosen.stop):
                return False
        return True

    def rows(self, numbers: Array, status: Array) -> NDArray[np.bool_]:
        """Rows (N,) of wanted frame numbers (N,) and status (N,)."""
        keep = np.ones(len(numbers), bool)
        if self.statuses is not None:
            keep &= np.isin(status, self.statuses)
        for chosen in self.frames:
            if isinstance(chosen, tuple):
                keep &= np.isin(numbers, chosen)
                continue
            low, high, step = chosen.start or 0, chosen.stop, chosen.step or 1
            keep &= (numbers >= low) & ((numbers - low) % step == 0)
            if high is not None:
                keep &= numbers <= high
        return keep


@dataclass(frozen=True)
class Block:
    """The wanted rows of one file.

    Parameters
    ----------
    source : Source
        Where they are from.
    arrays : dict of str to array
        By variable, rows along the first axis; `frame_number`, `person` and `status` always.
    chosen : (N, 17) bool
        Joints that fulfil the conditions; all where there are none.
    """

    source: Source
    arrays: dict[str, Array]
    chosen: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.arrays["status"])

    def part(self, rows: slice) -> Block:
        """Some of its rows."""
        return Block(self.source, {name: values[rows] for name, values in self.arrays.items()}, self.chosen[rows])


def read_block(source: Source, layout: Layout, variables: Collection[str], wanted: RowFilter) -> Block:
    """Read the wanted rows of a file.

    Parameters
    ----------
    source : Source
        The file.
    layout : Layout
        That of its stage.
    variables : collection of str
        Of FEATURE_VARIABLES, embeddings, maps, ANNOTATION_VARIABLES, and ``error_px``: the distance (N, 17) in px of
        detected and annotated 2D joints, NaN where the row isn't ok or has no usable annotation.
    wanted : RowFilter
        Which rows.

    Raises
    ------
    OSError
        When the file can't be read.
    """
    needed = {*variables, *wanted.names}
    with opened(source.path) as file:
        arrays = {name: _read(file, name) for name in ROW_NAMES}
        keep = wanted.rows(arrays["frame_number"], arrays["status"])
        everything = bool(keep.all())
        stored = [name for name in layout.variables if name in needed and name not in arrays]
        if "features" not in stored and needed & {*layout.names, "error_px"}:
            stored.append("features")
        arrays |= {name: _read(file, name) for name in stored}
    arrays |= _mapped(source, layout, needed, len(arrays["status"]))
    if not everything:
        arrays = {name: values[keep] for name, values in arrays.items()}
    truth = [name for name in ANNOTATION_VARIABLES if name in needed]
    if "error_px" in needed:
        truth = sorted({*truth, "keypoints_2d", "valid_annotation"})
    arrays |= _annotated(source.annotation, truth, arrays["person"], arrays["frame_number"])
    if "error_px" in needed:
        xy = arrays["features"][..., [layout.names.index("x"), layout.names.index("y")]]
        error = np.linalg.norm(xy - arrays["keypoints_2d"], axis=-1)
        arrays["error_px"] = np.where(arrays["valid_annotation"][:, None], error, np.nan)
    chosen = np.ones((len(arrays["status"]), len(H36M_17.joints)), bool)
    if wanted.conditions:
        columns = _columns(arrays, layout, wanted.names)
        for condition in wanted.conditions:
            chosen &= condition(columns)
        keep = chosen.max(axis=1)
        chosen = chosen[keep]
        arrays = {name: values[keep] for name, values in arrays.items()}
        if "features" in arrays:
            arrays["features"] = np.where(chosen[..., None], arrays["features"], np.float32(np.nan))
        if "joint_valid" in arrays:
            arrays["joint_valid"] = arrays["joint_valid"] & chosen
    return Block(source, {name: arrays[name] for name in {*ROW_NAMES, *variables} if name in arrays}, chosen)


def _read(file: h5py.File, name: str) -> Array:
    values = read_array(file, name)
    if name in EMBEDDINGS:
        return features.decode_float16(values)
    return values.astype(features.VARIABLES[name][1], copy=False)


def kept_maps(features: Sequence[Path]) -> tuple[tuple[MapVariable, ...], str] | None:
    """Return variables and name ending of the maps files beside feature files; of several sizes, the newest.

    Raises
    ------
    ConfigError
        When the package zarr is absent.
    """
    from etl.stages.files.maps import opened, require_zarr

    require_zarr("Reading feature maps")
    stems = {path.with_suffix("") for path in features}
    found = []
    for folder in {path.parent for path in features}:
        for path in folder.glob("*.maps-*.zarr.zip"):
            stem = path.name.partition(".")[0]
            if path.with_name(stem) in stems:
                found.append((path.stat().st_mtime_ns, path, path.name.removeprefix(stem)))
    for _, path, ending in sorted(found, reverse=True):
        with contextlib.suppress(OSError), opened(path) as ds:
            names = [name for name in maps.VARIABLES if name in ds]
            return tuple(MapVariable(n, ds[n].shape[1:], tuple(sorted(ds[n].attrs.items()))) for n in names), ending
    return None


def _mapped(source: Source, layout: Layout, needed: Collection[str], rows: int) -> dict[str, Array]:
    """Variables of the maps beside a file; NaN where none are kept."""
    wanted = {variable.name: variable for variable in layout.maps if variable.name in needed}
    if not wanted:
        return {}
    from etl.stages.files.maps import read  # brings the configuration along, which most queries don't need

    try:
        found = read(source.path.with_suffix(layout.maps_ending), wanted)
    except FileNotFoundError:
        return {name: variable.missing(rows) for name, variable in wanted.items()}
    return {name: found[name].values for name in wanted}


def _columns(arrays: dict[str, Array], layout: Layout, names: Collection[str]) -> dict[str, Array]:
    """Columns for conditions: features (N, 17), properties of rows (N, 1), of joints (1, 17)."""
    found: dict[str, Array] = {}
    for name in names:
        if name in layout.names:
            found[name] = arrays["features"][..., layout.names.index(name)]
        elif name == "joint":
            found[name] = np.array(H36M_17.joints)[None]
        elif name == "status":
            found[name] = status_names(arrays["status"])[:, None]
        elif name in ("frame", "person", "bbox_score"):
            found[name] = arrays["frame_number" if name == "frame" else name][:, None]
        elif name in ("error_px", "joint_valid"):
            found[name] = arrays[name]
        else:  # a statistic that this run left out
            found[name] = np.full((len(arrays["status"]), len(H36M_17.joints)), np.nan)
    return found


def status_names(status: Array) -> NDArray[np.str_]:
    """Names (N,) of status flags (N,)."""
    return np.array([s.name.lower() for s in Status])[status]


def _annotated(path: Path, names: Sequence[str], person: Array, number: Array) -> dict[str, Array]:
    """Annotation variables of rows, in their order; NaN, or false, where the annotation lacks them."""
    if not names:
        return {}
    stored = _annotation(path, _stamp(path), tuple(names))
    annotated = np.stack([stored["person"], stored["frame_number"]], axis=1).astype(np.int64)
    target = match(annotated, np.stack([person, number], axis=1).astype(np.int64)).target
    result = {}
    for name in names:
        # One row more, which stands for what the annotation lacks.
        nothing = np.full((1, *stored[name].shape[1:]), False if stored[name].dtype == bool else np.nan)
        padded = np.concatenate([stored[name], nothing.astype(stored[name].dtype)])
        result[name] = padded[target]
    return result


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=2)  # a sequence's files come one after the other
def _annotation(path: Path, stamp: tuple[int, int] | None, names: tuple[str, ...]) -> dict[str, Array]:
    wanted = {name: annotation.GROUND_TRUTH.get(name) or annotation.ALWAYS[name] for name in names}
    shapes = {"joint": len(H36M_17.joints), "image_axis": 2, "camera_axis": 3}
    if stamp is None:
        rows: Array = np.zeros(0, np.int32)
        there: dict[str, Array] = {"person": rows, "frame_number": rows}
    else:
        with opened(path) as file:
            there = {name: read_array(file, name) for name in ("person", "frame_number", *names) if name in file}
    for name, (dims, dtype) in wanted.items():
        if name in there:
            there[name] = there[name].astype(dtype, copy=False)
        else:  # a sequence without ground truth
            shape = (len(there["person"]), *(shapes[dim] for dim in dims[1:]))
            there[name] = np.zeros(shape, bool) if dtype == "bool" else np.full(shape, np.nan, dtype)
    return there
