"""Small workspaces with known annotations and features, written without running anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from etl.stages.files.features import write_partition
from etl.store.partition import Partition, cut_sequence
from etl.store.workspace import MARKER, Current, FeatureStore, Workspace
from schemas import annotation, features
from schemas.features import Status
from schemas.keys import SequenceKey

ANNOTATIONS, STAGE = "annotations-key", "stage-key"
SPLITS = {"S1": "train", "S5": "train", "S9": "val"}


def keys(
    subjects: Iterable[str] = ("S1", "S9"),
    actions: Iterable[str] = ("Directions", "Walking"),
    cameras: Iterable[str] = ("54138969", "55011271"),
) -> list[SequenceKey]:
    """Sequences of a small Human3.6M."""
    return [SequenceKey("h36m", s, a, 1, c) for s in subjects for a in actions for c in cameras]


def annotate(root: Path, sequences: Iterable[SequenceKey], frames: int = 20, people: int = 1) -> list[Partition]:
    """Write the marker, annotations, their manifest and current.json; the partitions, of 8 frames."""
    workspace = Workspace(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / MARKER).write_text(json.dumps({"layout": 1}))
    folder, entries, parts = workspace.annotations("h36m", ANNOTATIONS), {}, []
    for seed, key in enumerate(sequences):
        split = SPLITS.get(key.subject, "train")
        ds = annotation.mock(key, frames, people, seed=seed).assign_attrs(split=split)
        path = folder / f"{key.path}.nc"
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.to_netcdf(path, engine="netcdf4")
        entries[f"{key.path}.nc"] = {"split": split, "rows": ds.sizes["frame"], "identity": "", "notes": []}
        parts += cut_sequence(ds, f"{key.path}.nc", STAGE, 8, uses_boxes=False)
    (folder / "manifest.json").write_text(json.dumps({"dataset": "h36m", "sequences": entries}))
    workspace.set_current("h36m", Current(ANNOTATIONS, STAGE))
    store_of(root).create({})
    return parts


def store_of(root: Path) -> FeatureStore:
    """Its feature store."""
    return Workspace(root).features("h36m", STAGE)


def features_of(
    root: Path, part: Partition, statuses: Mapping[int, Status] | None = None, channels: tuple[int, int] = (0, 0)
) -> xr.Dataset:
    """Features of a partition, by closed forms.

    Joints lie (3, 4) px beside the annotated ones, depth is 4 + frame / 100 m at every joint, confidence is
    0.05 * (joint + 1).
    """
    path = Workspace(root).annotations("h36m", ANNOTATIONS) / part.annotation
    with xr.open_dataset(path, engine="netcdf4") as annotated:
        numbers = annotated["frame_number"].values
        truth = annotated.isel(frame=(numbers >= part.first) & (numbers <= part.last)).load()
    ds = features.mock(part.key, truth.sizes["frame"], pose_channels=channels[0], depth_channels=channels[1])
    ds["frame_number"].values[:], ds["person"].values[:] = truth["frame_number"].values, truth["person"].values
    values = ds["features"].values
    values[..., :2] = truth["keypoints_2d"].values + np.array([3, 4])
    values[..., 2] = 0.05 * np.arange(1, 18)
    values[..., 3:] = (4 + truth["frame_number"].values / 100)[:, None, None]
    for row, number in enumerate(truth["frame_number"].values.tolist()):
        if status := (statuses or {}).get(number):
            ds["status"].values[row], values[row] = status, np.nan
            ds["joint_valid"].values[row] = False
    ds.attrs |= {"partition": part.id, "stage": "{}"}
    return features.validate(ds)


def estimate(
    root: Path,
    parts: Iterable[Partition],
    statuses: Mapping[int, Status] | None = None,
    channels: tuple[int, int] = (0, 0),
) -> None:
    """Write the features of partitions and their receipts."""
    store = store_of(root)
    for part in parts:
        store.add_receipt(write_partition(features_of(root, part, statuses, channels), part, store))
