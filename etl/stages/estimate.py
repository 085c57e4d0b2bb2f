"""Estimate: from one partition of frames to one feature file. This runs on a worker.

`estimate_partition` shows the order of the steps: rows of the annotation, decoded frames, batches, networks, file.
Frames are decoded ahead while the networks work, and on a GPU a few batches are in flight. A frame that can't be
decoded, or on which the models fail, gets a status and a reason; the other frames are estimated.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import xarray as xr

from cluster.files import refresh_listing
from cluster.processors import processors
from etl import __version__
from etl.config import EstimateSettings, ModelSettings
from etl.errors import DeviceError, MediaError
from etl.media.frames import DecodedFrame, Media, MemoryBudget, decode, read_ahead
from etl.models.base import ModelSet, OnDevice
from etl.stages.blocks.chain import estimate_batch
from etl.stages.estimated_rows import Answer, EstimatedRows, Failure, Request, uses_boxes
from etl.stages.files import maps
from etl.stages.files.features import verify_partition, write_partition
from etl.stages.flight import Flight, Lanes
from etl.stages.identity import build_planned_models
from etl.stages.overlap import Overlap
from etl.stages.throughput import WorkTimes
from etl.store.listing import wait_until_visible
from etl.store.netcdf import NETCDF_LOCK
from etl.store.partition import Partition, Receipt
from etl.store.workspace import FeatureStore
from schemas.features import Status

OVERLAP = Overlap()
T = TypeVar("T")


@dataclass(frozen=True)
class Estimator:
    """Everything that a worker needs to estimate partitions of one dataset; sent with each task."""

    models: ModelSettings
    settings: EstimateSettings  # with `association` resolved (never "auto")
    media_root: Path  # folder of the raw dataset
    annotations: Path  # folder of its annotation files
    features: Path  # folder of the feature store
    description: str = field(repr=False)  # of the stage, as JSON: an attribute of each file; see etl.stages.identity

    @property
    def uses_boxes(self) -> bool:
        """Whether detections are matched to annotated boxes."""
        return uses_boxes(self.settings)


def estimate_partition(partition: Partition, estimator: Estimator) -> Receipt:
    """Estimate one partition and write its file, which exists when this returns its receipt.

    Raises
    ------
    etl.errors.WorkspaceError
        When the workspace can't be written.
    etl.errors.ModelError
        When the models can't be built, differ from those planned, or fail on all frames alike.
    """
    with OVERLAP.partition() as progress:
        store = FeatureStore(estimator.features)
        finished = _finished(partition, store)
        maps_path = maps.path_of(store.folder / partition.path, estimator.settings.embeddings)
        if finished is not None and (maps_path is None or maps_path.exists()):
            return finished
        models = build_planned_models(estimator.models, estimator.description)
        rows = load_rows(wait_until_visible(estimator.annotations / partition.annotation), partition)
        map_rows = None if maps_path is None else maps.MapRows.of(rows, models, estimator.settings.embeddings)
        table = EstimatedRows(rows, models, estimator.settings, map_rows)
        with (
            decoded_frames(rows, estimator, models) as (frames, all_decoded),
            _flight(table, models) as flight,
            progress.networks(),  # released when all batches are in flight: the next partition's follow them
        ):
            store.record_attempt(partition.id)
            batches = flight.measure(batched(frames, estimator.settings.batch))
            for batch in progress.start_next_when(all_decoded, batches):
                flight.launch(table.keep_decoded(batch))
        times = flight.times
        ds = table.finish()
        origin = {"partition": partition.id, "stage": estimator.description, "xycd_version": __version__}
        if map_rows is not None and maps_path is not None:  # first, because the features mark the partition as finished
            maps.write(map_rows.ds.assign_attrs(origin), maps_path)
        # Features that exist already stay: receipts know them by checksum.
        receipt = finished or write_partition(ds.assign_attrs(origin), partition, store)
        return replace(
            receipt,
            seconds=round(progress.seconds, 3),
            wait_s=round(times.wait_s, 3),
            model_s=round(times.model_s, 3),
        )


def _finished(partition: Partition, store: FeatureStore) -> Receipt | None:
    """Receipt of the partition's file if it exists and is complete.

    The scheduler runs a finished task again if its worker dies before the driver has the receipt.
    """
    refresh_listing((store.folder / partition.path).parent)
    if (store.folder / partition.path).exists():
        with contextlib.suppress(ValueError, OSError, KeyError):
            return verify_partition(partition, store)
    return None


def load_rows(path: Path, partition: Partition) -> xr.Dataset:
    """The partition's rows of its annotation file, in memory."""
    with NETCDF_LOCK, xr.open_dataset(path, engine="netcdf4") as ds:
        numbers = ds["frame_number"].values
        rows = np.flatnonzero((numbers >= partition.first) & (numbers <= partition.last))
        return ds.isel(frame=rows).load()


@contextlib.contextmanager
def decoded_frames(
    rows: xr.Dataset, estimator: Estimator, models: ModelSet
) -> Iterator[tuple[Iterator[DecodedFrame], threading.Event]]:
    """Decode the frames of annotation rows, in order; the event is set when a read-ahead has decoded all of them."""
    numbers = np.unique(rows["frame_number"].values).tolist()
    media = Media.from_dict(json.loads(rows.attrs["media"]))
    settings, all_decoded = estimator.settings, threading.Event()
    threads = decode_threads(models)
    frames = decode(estimator.media_root, media, numbers, threads=threads, max_pixels=settings.max_pixels)
    if decodes_ahead(models):
        frames = read_ahead(_then_set(all_decoded, frames), _frame_memory(settings.decode_ahead_mb))
    with contextlib.closing(frames):
        yield frames, all_decoded


def decodes_ahead(models: ModelSet) -> bool:
    """Whether frames are decoded while the models work, rather than between their batches.

    On a single processor that gains nothing and empties the models' caches: 2.4 % more processor time with the embedded
    models.
    """
    return processors() > 1 or on_device(models)


def decode_threads(models: ModelSet) -> int:
    """Number of decoding threads: all cores of the worker beside a GPU, half of them where networks need cores too."""
    cv2.setNumThreads(1)  # OpenCV's own threads would compete with those that decode and compute
    return processors() if on_device(models) else max(1, processors() // 2)


def on_device(models: ModelSet) -> bool:
    """Whether the models compute on a GPU."""
    return isinstance(models, OnDevice) and models.on_device


@functools.lru_cache(maxsize=1)
def _frame_memory(megabytes: int) -> MemoryBudget:
    """Memory for decoded frames, shared by the partitions of this process."""
    return MemoryBudget(megabytes * 2**20)


@functools.lru_cache(maxsize=1)
def _lanes() -> Lanes:
    """The threads of this process for batches in flight."""
    return Lanes()


def _then_set(event: threading.Event, items: Iterable[T]) -> Generator[T, None, None]:
    yield from items
    event.set()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items (itertools.batched needs Python 3.12)."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def estimate_rows(
    rows: xr.Dataset,
    models: ModelSet,
    estimator: Estimator,
    *,
    times: WorkTimes | None = None,
) -> xr.Dataset:
    """Features of annotation rows, in memory; for trials, which write nothing.

    Parameters
    ----------
    rows : xr.Dataset
        Annotation dataset, one row for each frame and person.
    models : ModelSet
        Built for this process.
    estimator : Estimator
        Source of the frames, and the settings.
    times : WorkTimes, optional
        Measures waiting and work.

    Returns
    -------
    xr.Dataset
        Feature dataset with the same rows in the same order; every row has a status.

    Raises
    ------
    etl.errors.ModelError
        When the models fail on all frames alike.
    """
    table = EstimatedRows(rows, models, estimator.settings)
    with (
        decoded_frames(rows, estimator, models) as (frames, _),
        _flight(table, models, times) as flight,
    ):
        for batch in flight.measure(batched(frames, estimator.settings.batch)):
            flight.launch(table.keep_decoded(batch))
    return table.finish()


def _flight(
    table: EstimatedRows, models: ModelSet, times: WorkTimes | None = None
) -> Flight[list[Request], list[Answer]]:
    """Flight of batches that fill in the rows of `table`."""
    lanes = _lanes() if on_device(models) else None
    work = functools.partial(estimate_requests, models=models, settings=table.settings, lanes=lanes)
    return Flight(work, table.fill, lanes, times)


def estimate_requests(
    requests: Sequence[Request], models: ModelSet, settings: EstimateSettings, lanes: Lanes | None = None
) -> list[Answer]:
    """Features of each frame of a batch, or its failure.

    If the models fail on the batch, its frames run one by one, so that only those that they fail on are lost; on a GPU
    each runs alone, because other batches may have taken the memory that it needs.

    Raises
    ------
    etl.errors.DeviceError
        When the GPU doesn't work any more.
    """
    if not requests:
        return []
    together, alone = (lanes.together, lanes.alone) if lanes else (contextlib.nullcontext, contextlib.nullcontext)
    found = _attempt(requests, models, settings, together)
    if not isinstance(found, Failure):
        return found
    if len(requests) == 1 and lanes is None:
        return [(requests[0].frame.number, found)]
    answers: list[Answer] = []
    for request in requests:
        one = _attempt([request], models, settings, alone)
        answers += [(request.frame.number, one)] if isinstance(one, Failure) else one
    return answers


def _attempt(
    requests: Sequence[Request],
    models: ModelSet,
    settings: EstimateSettings,
    context: Callable[[], contextlib.AbstractContextManager[None]],
) -> list[Answer] | Failure:
    frames, people = [request.frame for request in requests], [request.people for request in requests]
    try:
        with context():
            found = estimate_batch(frames, people, models, settings)
    except Exception as error:  # any error of a network costs the frame it happened on, and is recorded
        text = f"{type(error).__name__}: {error}"
        if isinstance(models, OnDevice) and not models.device_works():
            raise DeviceError(
                "A worker's GPU must work.", text, "If other workers of its node fail too, exclude the node."
            ) from error
        return Failure(Status.DECODE_ERROR if isinstance(error, MediaError) else Status.MODEL_ERROR, text)
    return [(frame.number, result) for frame, result in zip(frames, found, strict=True)]
