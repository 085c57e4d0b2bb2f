"""Feature maps that are kept beside a feature file: gathered, written, and read back.

A partition has one file of them, a Zarr store in a zip: it appears under its name when it is whole, and before the
partition's feature file. Its name says the sizes that were asked for, so that files of other sizes may lie beside it.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

import xarray as xr

from etl.config import EmbeddingSettings, ModelSettings
from etl.errors import ConfigError
from etl.models import registry
from etl.models.base import MapSource, ModelSet, PooledMap
from etl.store.workspace import atomic_target
from schemas import annotation, maps

CHUNK_BYTES: Final = 1 << 20  # what reading a single row costs at most, about
# Saves a tenth of features, and nearly all of rows without any.
COMPRESSOR: Final[Mapping[str, str | int]] = {"id": "zstd", "level": 1}


def path_of(features: Path, settings: EmbeddingSettings) -> Path:
    """The maps file that belongs to a feature file."""
    return features.with_suffix(settings.maps_ending)


def check(settings: EmbeddingSettings, chosen: ModelSettings) -> None:
    """Find out before anything runs whether maps can be kept, where they are asked for.

    Raises
    ------
    ConfigError
        When the model set has none, or Zarr isn't installed.
    """
    if not settings.keep_maps:
        return
    if not registry.has_maps(chosen.set, cache=chosen.cache, **chosen.options):
        raise ConfigError(
            "estimate.embeddings.keep_maps needs a model set with feature maps.",
            f"{chosen.set!r} has none",
            "Take `auglift`, or leave keep_maps out.",
        )
    require_zarr("estimate.embeddings.keep_maps")


def require_zarr(what: str) -> None:
    """Raise a ConfigError where the package zarr, which an extra brings, is absent; `what` begins the sentence."""
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what} needs the package zarr.", str(error), "pip install 'xycd[zarr]'") from error


def bytes_of_row(channels: tuple[int, int], settings: EmbeddingSettings) -> int:
    """Bytes that the maps of one row take uncompressed; 0 where none are kept."""
    if not settings.keep_maps:
        return 0
    sizes = zip(channels, (settings.pose_map, settings.depth_map), strict=True)
    return sum(2 * width * columns * rows + 60 for width, (columns, rows) in sizes)


class Keeper:
    """The maps of a partition's rows, being gathered.

    Parameters
    ----------
    ds : xr.Dataset
        Of `schemas.maps`, to be filled in place.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self.ds = ds
        self._arrays = {str(name): ds[name].values for name in ds.data_vars}

    @classmethod
    def of(cls, rows: xr.Dataset, models: ModelSet, settings: EmbeddingSettings) -> Self:
        """Keeper of the maps of annotation rows.

        Raises
        ------
        TypeError
            When the set has no maps; `check` finds that before.
        """
        if not isinstance(models, MapSource):
            raise TypeError(f"{models} has no feature maps")
        layers, sizes = models.map_layers, settings.map_sizes
        widths = zip(maps.STREAMS, models.channels, strict=True)
        shapes = {stream: (width, *sizes[stream][::-1]) for stream, width in widths if stream in layers}
        return cls(
            maps.empty(annotation.key_of(rows), rows["frame_number"].values, rows["person"].values, shapes, layers)
        )

    def fill(self, row: int, person: int, pooled: Mapping[str, PooledMap]) -> None:
        """Take over the maps of the `person`-th person of a frame."""
        for stream, found in pooled.items():
            self._arrays[f"{stream}_feature_map"][row] = found.values[person]
            self._arrays[f"{stream}_px_to_cell"][row] = found.px_to_cell[person][:2]
            self._arrays[f"{stream}_grid"][row] = found.grid


def write(ds: xr.Dataset, path: Path) -> None:
    """Write a dataset of maps: temporary file, fsync, rename.

    Raises
    ------
    etl.errors.WorkspaceError
        When the disk refuses.
    """
    import zarr
    from zarr.storage import ZipStore

    # Not by xarray, which writes attributes twice: a zip keeps both. Format 2: every reader knows it, and it has text.
    with atomic_target(path) as temporary, ZipStore(temporary, mode="w") as store:
        group = zarr.create_group(store, zarr_format=2, attributes=ds.attrs)
        for name, variable in maps.validate(ds).variables.items():
            values = variable.values
            bytes_of_row = max(1, values[:1].nbytes)
            rows = max(1, min(len(values), CHUNK_BYTES // bytes_of_row))
            group.create_array(
                str(name),
                data=values,
                chunks=(rows, *values.shape[1:]),
                attributes={"_ARRAY_DIMENSIONS": [str(dim) for dim in variable.dims], **variable.attrs},
                compressors=COMPRESSOR,
                fill_value=None,
            )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[xr.Dataset]:
    """A maps file, whose arrays are read when they are asked for within the context.

    Raises
    ------
    OSError
        When it isn't there or is damaged.
    """
    from zarr.storage import ZipStore

    path.stat()  # says what is wrong where there is no such file
    if not zipfile.is_zipfile(path):
        raise OSError(f"{path}: it isn't a whole zip file")
    try:
        with ZipStore(path, mode="r") as store, xr.open_zarr(store, consolidated=False, chunks=None) as ds:
            yield ds.set_coords(("frame_number", "person"))
    except zipfile.BadZipFile as error:
        raise OSError(f"{path}: {error}") from error


def read(path: Path, names: Collection[str] | None = None) -> xr.Dataset:
    """Read a maps file, or some of its variables, into memory.

    Raises
    ------
    OSError
        When it isn't there or is damaged.
    KeyError
        When it lacks one of `names`.
    """
    with opened(path) as ds:
        return (ds if names is None else ds[list(names)]).load()


def inspect(path: Path, partition: str, rows: int) -> None:
    """Read a maps file, and check that it is whole and belongs to the partition.

    Raises
    ------
    ValueError, KeyError, OSError
        When not.
    """
    ds = maps.validate(read(path))
    if ds.attrs.get("partition") != partition or ds.sizes["frame"] != rows:
        raise ValueError("it isn't this partition's maps file")
