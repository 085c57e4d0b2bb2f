"""Feature maps kept beside a feature file: collect, write and read them.

A partition has one file of maps, a Zarr store in a zip. It appears under its name when it is complete, before the
partition's feature file. Its name has the configured sizes, so that files with other sizes may exist beside it.
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

CHUNK_BYTES: Final = 1 << 20  # about what reading a single row costs at most
# Saves a tenth of the bytes, and nearly all of rows without maps.
COMPRESSOR: Final[Mapping[str, str | int]] = {"id": "zstd", "level": 1}


def path_of(features: Path, settings: EmbeddingSettings) -> Path | None:
    """Path of the maps file beside a feature file; None if none are kept."""
    return features.with_suffix(settings.maps_ending) if settings.keep_maps else None


def check_can_keep(settings: EmbeddingSettings, chosen: ModelSettings) -> None:
    """Check, before anything runs, that maps can be kept if configured.

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
    """Raise a ConfigError if the optional package zarr is missing; `what` needs it."""
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what} needs the package zarr.", str(error), "pip install 'xycd[zarr]'") from error


def bytes_of_row(channels: tuple[int, int], settings: EmbeddingSettings) -> int:
    """Bytes of the maps of one row, uncompressed; 0 if none are kept."""
    if not settings.keep_maps:
        return 0
    sizes = zip(channels, (settings.pose_map, settings.depth_map), strict=True)
    return sum(2 * width * columns * rows + 60 for width, (columns, rows) in sizes)


class MapRows:
    """The maps of a partition's rows, filled in row by row.

    Parameters
    ----------
    ds : xr.Dataset
        Of `schemas.maps`, filled in place.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self.ds = ds
        self._arrays = {str(name): ds[name].values for name in ds.data_vars}

    @classmethod
    def of(cls, rows: xr.Dataset, models: ModelSet, settings: EmbeddingSettings) -> Self:
        """Empty maps of annotation rows.

        Raises
        ------
        TypeError
            When the set has no maps; `check` finds that earlier.
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
        """Fill in a row with the maps of the `person`-th person of a frame."""
        for stream, found in pooled.items():
            self._arrays[f"{stream}_feature_map"][row] = found.values[person]
            self._arrays[f"{stream}_px_to_cell"][row] = found.px_to_cell[person][:2]
            self._arrays[f"{stream}_grid"][row] = found.grid


def write(ds: xr.Dataset, path: Path) -> None:
    """Write a dataset of maps: temporary file, fsync, rename.

    Raises
    ------
    etl.errors.WorkspaceError
        When the disk can't be written.
    """
    import zarr
    from zarr.storage import ZipStore

    # Not by xarray, which writes attributes twice, and a zip keeps both. Format 2, because all readers support it, and
    # text in it.
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
    """Open a maps file; its arrays are read on access, within the context.

    Raises
    ------
    OSError
        When it is missing or damaged.
    """
    from zarr.storage import ZipStore

    path.stat()  # raises a clear error if there is no such file
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
        When it is missing or damaged.
    KeyError
        When it lacks one of `names`.
    """
    with opened(path) as ds:
        return (ds if names is None else ds[list(names)]).load()


def verify_maps(path: Path, partition: str, rows: int) -> None:
    """Read a maps file, and check that it is complete and belongs to the partition.

    Raises
    ------
    ValueError, KeyError, OSError
        When it isn't.
    """
    ds = maps.validate(read(path))
    if ds.attrs.get("partition") != partition or ds.sizes["frame"] != rows:
        raise ValueError("it isn't this partition's maps file")
