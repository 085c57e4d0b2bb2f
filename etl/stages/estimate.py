"""Estimate: one partition of frames to one feature file. This is what runs on a worker.

Decoding runs ahead, in as many threads as pay. A frame that can't be decoded, or on which the models fail, costs that
frame.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import xarray as xr

from cluster.files import look_afresh
from cluster.processors import processors
from etl import __version__
from etl.config import EstimateSettings, ModelSettings, to_json
from etl.errors import DeviceError, MediaError, ModelError
from etl.media.frames import Media, Room, decode, read_ahead
from etl.models import registry
from etl.models.base import Description, Frame, ModelSet, OnDevice
from etl.stages.blocks.chain import estimate_batch
from etl.stages.blocks.people import MARGIN
from etl.stages.estimated_rows import EstimatedRows
from etl.stages.files import maps
from etl.stages.files.features import inspect, write_partition
from etl.stages.pace import DecodeThreads, Pace
from etl.stages.turns import Turn, Turns
from etl.store.listing import once_visible
from etl.store.netcdf import NETCDF_LOCK
from etl.store.partition import Partition, Receipt, digest
from etl.store.workspace import FeatureStore
from schemas import annotation, features
from schemas.features import Status

VERSION = 1
TURNS = Turns()
T = TypeVar("T")


@dataclass(frozen=True)
class Estimator:
    """Everything that a worker needs to estimate partitions of one dataset; small, and sent with each task.

    Parameters
    ----------
    models : ModelSettings
        Which model set.
    settings : EstimateSettings
        Everything else; `association` is resolved (never "auto").
    media_root, annotations, features : Path
        Folders: the raw dataset, its annotation files, the feature store.
    description : str
        JSON of what stands behind the stage key; goes into each file's attributes.
    """

    models: ModelSettings
    settings: EstimateSettings
    media_root: Path
    annotations: Path
    features: Path
    description: str = field(repr=False)

    def maps_of(self, features: Path) -> Path | None:
        """Where the maps belong that are kept beside a feature file; None where none are."""
        embeddings = self.settings.embeddings
        return maps.path_of(features, embeddings) if embeddings.keep_maps else None

    @property
    def uses_boxes(self) -> bool:
        """Whether annotated boxes decide who is who."""
        return self.settings.association in ("overlap", "ground_truth_box")


def describe_models(models: ModelSettings) -> Description:
    """Identity and widths of a model set, which is built only where nothing else tells them."""
    found = registry.describe(models.set, cache=models.cache, **models.options)
    if found is None:
        built = build_models(models)
        found = Description(built.identity, built.channels)
    return found


def describe_stage(models: ModelSettings, settings: EstimateSettings, frames: Any) -> dict[str, Any]:
    """Everything that can change a value, and how frames are cut: what the stage key hashes.

    Parameters
    ----------
    models, settings
        As configured, `association` resolved.
    frames : JSON-ready
        The dataset's options that choose frames.
    """
    # Maps are kept in files of their own, whose names say their sizes; no feature depends on them.
    beside = {"batch", "decode_ahead_mb", "embeddings"}
    parameters = settings.model_dump(mode="json", exclude=beside) | {"embeddings": settings.embeddings.enabled}
    description = {
        "stage": f"estimate {VERSION}",
        "models": describe_models(models).identity,
        "parameters": parameters,
        "frames": frames,
    }
    if settings.association == "ground_truth_box":  # a rule that others don't depend on
        description["boxes"] = f"joints truncated to integers, {MARGIN} px around, within the image"
    return description


def stage_key(description: dict[str, Any]) -> str:
    """Key of the folder of all features that this stage makes."""
    return digest(description, length=12)


@functools.lru_cache(maxsize=1)
def _cached_models(settings: str) -> ModelSet:
    # One set a process: building takes seconds, and GPUs have no room for two.
    chosen = ModelSettings.model_validate_json(settings)
    return registry.build(chosen.set, cache=chosen.cache, **chosen.options)


def build_models(settings: ModelSettings) -> ModelSet:
    """The model set, built once a process."""
    return _cached_models(to_json(settings))


def models_of(estimator: Estimator) -> ModelSet:
    """The estimator's model set, built once a process, and the one that its features are named after.

    Raises
    ------
    etl.errors.ModelError
        When it can't be built, or is another here.
    """
    models = build_models(estimator.models)
    planned, found = json.loads(estimator.description)["models"], json.loads(json.dumps(models.identity))
    if found != planned:
        names = [name for name in {**planned, **found} if found.get(name) != planned.get(name)]
        raise ModelError(
            "A worker's models are those that the run was planned with, and that its features are named after.",
            "; ".join(f"{name} is {found.get(name)}, planned {planned.get(name)}" for name in names),
            "See to it that all machines have the same files and the same version of xycd, and start the run again.",
        )
    return models


def estimate_partition(partition: Partition, estimator: Estimator) -> Receipt:
    """Estimate one partition and write its file.

    Parameters
    ----------
    partition : Partition
        What to do.
    estimator : Estimator
        How.

    Returns
    -------
    Receipt
        Proof of the file, which exists when this returns.

    Raises
    ------
    etl.errors.WorkspaceError
        When the workspace can't be written.
    etl.errors.ModelError
        When the models can't be built, or are others than those planned with.
    """
    with TURNS.partition() as turn:
        return _estimate_partition(partition, estimator, turn)


def _estimate_partition(partition: Partition, estimator: Estimator, turn: Turn) -> Receipt:
    store = FeatureStore(estimator.features)
    finished, maps_path = _finished(partition, store), estimator.maps_of(store.folder / partition.path)
    if finished is not None and (maps_path is None or maps_path.exists()):
        return finished
    models = models_of(estimator)
    rows = load_rows(once_visible(estimator.annotations / partition.annotation), partition)
    decoders, pace = _decoders(), Pace()
    threads = decoders.count
    keeper = None if maps_path is None else maps.Keeper.of(rows, models, estimator.settings.embeddings)
    ds = estimate_rows(
        rows,
        models,
        estimator,
        threads=threads,
        ahead=reads_ahead(models),
        pace=pace,
        keeper=keeper,
        turn=turn,
        begin=lambda: store.record_attempt(partition.id),
    )
    decoders.learn(partition.frames, pace, threads)
    turn.begin_next()
    origin = {"partition": partition.id, "stage": estimator.description, "xycd_version": __version__}
    if keeper is not None and maps_path is not None:  # before the features, which say that the partition is finished
        maps.write(keeper.ds.assign_attrs(origin), maps_path)
    # Features that are there already stay: receipts know them by checksum.
    receipt = finished or write_partition(ds.assign_attrs(origin), partition, store)
    return replace(
        receipt,
        seconds=round(turn.seconds, 3),
        wait_s=round(pace.wait_s, 3),
        model_s=round(pace.model_s, 3),
    )


def _finished(partition: Partition, store: FeatureStore) -> Receipt | None:
    """Receipt of the partition's file, if it is there and whole.

    The scheduler runs a finished task again when its worker dies before the driver has the receipt.
    """
    look_afresh((store.folder / partition.path).parent)
    if (store.folder / partition.path).exists():
        with contextlib.suppress(ValueError, OSError, KeyError):
            return inspect(partition, store)
    return None


def reads_ahead(models: ModelSet) -> bool:
    """Whether frames are decoded while the models work: where they leave this process a processor for it."""
    return _decoders().limit > 1 or (isinstance(models, OnDevice) and models.on_device)


@functools.lru_cache(maxsize=1)
def _room(megabytes: int) -> Room:
    """Of this process, for decoded frames."""
    return Room(megabytes * 2**20)


@functools.lru_cache(maxsize=1)
def _decoders() -> DecodeThreads:
    """Of this process. OpenCV's own threads would only get in the way of those that decode and compute."""
    cv2.setNumThreads(1)
    return DecodeThreads(processors())


def load_rows(path: Path, partition: Partition) -> xr.Dataset:
    """The partition's rows of its annotation file, in memory."""
    with NETCDF_LOCK, xr.open_dataset(path, engine="netcdf4") as ds:
        numbers = ds["frame_number"].values
        rows = np.flatnonzero((numbers >= partition.first) & (numbers <= partition.last))
        return ds.isel(frame=rows).load()


def estimate_rows(
    rows: xr.Dataset,
    models: ModelSet,
    estimator: Estimator,
    *,
    threads: int = 1,
    ahead: bool = True,
    pace: Pace | None = None,
    keeper: maps.Keeper | None = None,
    turn: Turn | None = None,
    begin: Callable[[], object] = lambda: None,
) -> xr.Dataset:
    """Features of annotation rows.

    Parameters
    ----------
    rows : xr.Dataset
        Annotation dataset, one row a frame and person.
    models : ModelSet
        Built for this process.
    estimator : Estimator
        Where frames come from, and the settings.
    threads : int
        Decode; they change no value.
    ahead : bool
        Decode while the models work, rather than between their batches. On a single processor nothing is won by that,
        and what the models left in its caches is lost: 2.4 % more processor time with the embedded ones.
    pace : Pace, optional
        Learns where the time went.
    keeper : maps.Keeper, optional
        Gathers the feature maps of these rows.
    turn : Turn, optional
        Of the partition that these rows are; by default nobody else is in this process.
    begin : callable
        Called when its turn has come to have the networks.

    Returns
    -------
    xr.Dataset
        Feature dataset with the same rows in the same order; every row has a status.

    Raises
    ------
    etl.errors.ModelError
        When the models fail on all frames alike, which says something about them or their node rather than about the
        frames: such a partition isn't finished, and runs again.
    """
    settings = estimator.settings
    pose_channels, depth_channels = models.channels if settings.embeddings.enabled else (0, 0)
    ds = features.empty(
        annotation.key_of(rows),
        rows["frame_number"].values,
        rows["person"].values,
        statistics=settings.descriptor.statistics,
        pose_channels=pose_channels,
        depth_channels=depth_channels,
    )
    table = EstimatedRows(ds, rows, estimator.uses_boxes, keeper)
    numbers = np.unique(rows["frame_number"].values).tolist()
    media = Media.from_dict(json.loads(rows.attrs["media"]))
    pace, turn = pace or Pace(), turn or Turn(Turns(), alone=True)
    with contextlib.ExitStack() as stack:
        decoded = decode(estimator.media_root, media, numbers, threads=threads, max_pixels=settings.max_pixels)
        at_the_end = threading.Event()
        if ahead:
            decoded = read_ahead(_noting_the_end(decoded, at_the_end), _room(settings.decode_ahead_mb))
        stack.callback(decoded.close)
        stack.enter_context(turn.networks())
        begin()
        for batch in pace.split(batched(decoded, settings.batch)):
            if at_the_end.is_set():
                turn.begin_next()
            frames = table.keep_decoded(batch, settings.field_of_view)
            if frames:
                _estimate_frames(frames, models, settings, table)
    if reason := table.common_failure():
        fix = "Fix the cause; the same command runs the partition again."
        raise ModelError("Models work on some frame of a partition.", f"on each: {reason}", fix)
    return table.finish()


def _noting_the_end(items: Iterable[T], at_the_end: threading.Event) -> Generator[T, None, None]:
    yield from items
    at_the_end.set()


def _estimate_frames(frames: list[Frame], models: ModelSet, settings: EstimateSettings, table: EstimatedRows) -> None:
    """Fill in a batch; when the models fail on it, find out on which of its frames."""
    try:
        results = estimate_batch(frames, [table.boxes(f.number) for f in frames], models, settings)
    except Exception as error:  # whatever a network raises costs the frame it happened on, and is listed
        if isinstance(models, OnDevice) and not models.device_works():
            found = f"{type(error).__name__}: {error}"
            raise DeviceError(
                "A worker's GPU answers.", found, "If others of its node fail too, exclude it."
            ) from error
        if len(frames) == 1:
            status = Status.DECODE_ERROR if isinstance(error, MediaError) else Status.MODEL_ERROR
            table.fail(frames[0].number, status, f"{type(error).__name__}: {error}")
            return
        for frame in frames:
            _estimate_frames([frame], models, settings, table)
        return
    for frame, result in zip(frames, results, strict=True):
        table.fill(frame.number, result)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items (itertools.batched needs Python 3.12)."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
