"""Write and inspect the feature file of one partition; a receipt proves a complete file."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from etl.store.netcdf import NETCDF_LOCK
from etl.store.partition import Partition, Receipt
from etl.store.workspace import FeatureStore, atomic_target, file_sha256
from schemas import features
from schemas.features import Status


def write_partition(ds: xr.Dataset, partition: Partition, store: FeatureStore) -> Receipt:
    """Write the feature file (temporary file, fsync, rename); returns its receipt."""
    # Made in memory, because HDF5 reports a full disk as "HDF error", which may mean anything.
    with NETCDF_LOCK:
        content = ds.to_netcdf(None, engine="netcdf4", format="NETCDF4")
    checksum = _write_and_hash(store.folder / partition.path, content)
    return replace(make_receipt(ds, partition, len(content), checksum), written=round(time.time(), 3))


def _write_and_hash(target: Path, content: memoryview) -> str:
    """Write a file; returns its SHA-256, computed meanwhile."""
    with ThreadPoolExecutor(1, "sha256") as thread, atomic_target(target) as temporary:
        checksum = thread.submit(lambda: hashlib.sha256(content).hexdigest())
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return checksum.result()


def make_receipt(ds: xr.Dataset, partition: Partition, size: int, checksum: str) -> Receipt:
    """Receipt of a file with the content `ds`."""
    values, counts = np.unique(ds["status"].values, return_counts=True)
    return Receipt(
        id=partition.id,
        path=str(partition.path),
        rows=partition.rows,
        frames=partition.frames,
        counts={Status(v).name.lower(): int(n) for v, n in zip(values, counts, strict=True)},
        bytes=size,
        sha256=checksum,
        seconds=0.0,
        worker=f"{socket.gethostname()}-{os.getpid()}",
    )


def verify_partition(partition: Partition, store: FeatureStore) -> Receipt:
    """Open a partition's file and check it; returns its receipt.

    Raises
    ------
    ValueError, KeyError, OSError
        When the file isn't a complete feature file of this partition.
    """
    path = store.folder / partition.path
    with NETCDF_LOCK, xr.open_dataset(path, engine="netcdf4") as ds:
        features.validate(ds.load())
        if ds.attrs.get("partition") != partition.id or ds.sizes["frame"] != partition.rows:
            raise ValueError("it isn't this partition's file")
        stat = path.stat()
        receipt = make_receipt(ds, partition, stat.st_size, file_sha256(path))
        return replace(receipt, written=round(stat.st_mtime, 3))
