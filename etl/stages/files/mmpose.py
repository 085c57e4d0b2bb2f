"""Export annotation files in MMPose's formats: see schemas.mmpose."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from etl.errors import MergeError
from etl.stages.files.npz import NpzWriter
from etl.store.partition import digest
from etl.store.workspace import write_atomically
from schemas import annotation, mmpose
from schemas.camera import Camera

VERSION: Final = 2  # raise it when the same annotations give other files
UNLABELLED: Final = "unlabelled"


@dataclass(frozen=True)
class Export:
    """Files written by `export_mmpose`."""

    npz: Path
    cameras_json: Path
    cameras_pickle: Path
    rows: int  # written
    left_out: int  # rows that the release calls unusable, or with a joint of NaN


def export_mmpose(
    annotation_files: Iterable[Path], output_folder: Path, dataset: str, split: str, made_from: str = ""
) -> Export | None:
    """Write ``<dataset>_<split>.npz`` and ``<dataset>_cameras.json`` and ``.pkl``, as MMPose's converters do.

    Memory doesn't grow with the dataset. MMPose can't mark rows as unusable, so they are left out and counted. Cameras
    are those of all `annotation_files`, of any split; see `export_cameras`.

    Parameters
    ----------
    annotation_files : iterable of Path
        Of the dataset; those of other splits or without ground truth are skipped.
    output_folder : Path
        Target folder.
    dataset, split : str
        Rows to export.
    made_from : str
        Identity of the files; a later export of the same files can be skipped.

    Returns
    -------
    Export or None
        None if the split has no ground truth.
    """
    files = list(annotation_files)
    chosen: list[tuple[Path, np.ndarray]] = []
    width, left_out = 1, 0
    sources: set[str] = set()
    how = mmpose.convention(dataset)
    for path in files:
        with xr.open_dataset(path, engine="netcdf4") as ds:
            if ds.attrs["split"] != split or not annotation.has_ground_truth(ds):
                continue
            usable = np.flatnonzero(_usable(ds))
            left_out += ds.sizes["frame"] - len(usable)
            sources.add(ds.attrs["joint_source"])
            if len(usable):
                chosen.append((path, usable))
                width = max(width, _longest_name(ds))
    if not chosen:
        return None
    rows = sum(len(usable) for _, usable in chosen)
    target = output_folder / f"{dataset}_{split}.npz"
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {"imgname": ((rows,), f"<U{width}")}
    shapes |= {name: ((rows, *shape), np.float64) for name, shape in mmpose.ARRAYS.items()}
    with NpzWriter(target, shapes) as writer:
        start = 0
        for path, usable in chosen:
            with xr.open_dataset(path, engine="netcdf4") as ds:
                if ds.sizes["frame"] <= usable[-1]:
                    raise MergeError(
                        "Files must not change during an export.", f"{path} has fewer rows", "Run it again."
                    )
                ds = ds.isel(frame=usable).load()
                writer.write("imgname", start, annotation.imgname_of(ds).astype(f"<U{width}"))
                for name, values in mmpose.rows(ds, dataset).items():
                    writer.write(name, start, values)
                start += len(usable)
        facts = {
            "dataset": dataset,
            "split": split,
            "rows": rows,
            "left_out": left_out,
            "skeleton": how.skeleton.name,
            "joints": how.skeleton.joints,
            "joint_source": sorted(sources),
            **mmpose.describe_order(dataset),
        }
        writer.append("metadata", np.array(json.dumps(facts)))
    as_json, as_pickle = export_cameras(files, output_folder, dataset, {split: made_from})
    return Export(target, as_json, as_pickle, rows, left_out)


def update_exports(
    splits: Mapping[str, Mapping[Path, str]],
    unlabelled: Mapping[Path, str],
    output_folder: Path,
    dataset: str,
    *,
    complete: bool = False,
) -> list[Path]:
    """Export the splits whose files changed since the last export; returns the npz of each split.

    Parameters
    ----------
    splits : mapping of str to mapping of Path to str
        By split, the identities of its annotation files.
    unlabelled : mapping of Path to str
        Files without ground truth; only their cameras are exported.
    output_folder, dataset
        See `export_mmpose`.
    complete : bool
        Whether these are all files of the dataset; exports of other splits, and their cameras, are then removed.
    """
    as_json = output_folder / f"{dataset}_cameras.json"
    exported = _read_cameras(as_json).get("made_from", {})
    outputs = []
    for split, files in sorted(splits.items()):
        target, made_from = output_folder / f"{dataset}_{split}.npz", _digest(files)
        if exported.get(split) == made_from and target.is_file():
            outputs.append(target)
        elif export := export_mmpose(files, output_folder, dataset, split, made_from):
            outputs.append(export.npz)
    made_from = _digest(unlabelled)
    if unlabelled and exported.get(UNLABELLED) != made_from:
        export_cameras(unlabelled, output_folder, dataset, {UNLABELLED: made_from})
    there = {path.stem.removeprefix(f"{dataset}_") for path in outputs} | ({UNLABELLED} if unlabelled else set())
    gone = sorted(set(exported) - there)
    if complete and gone:
        for split in gone:
            (output_folder / f"{dataset}_{split}.npz").unlink(missing_ok=True)
        made_of = {split: _digest(files) for split, files in splits.items() if split in there}
        if unlabelled:
            made_of[UNLABELLED] = _digest(unlabelled)
        every = [path for files in (*splits.values(), unlabelled) for path in files]
        export_cameras(every, output_folder, dataset, made_of, afresh=True)
    return outputs


def _digest(files: Mapping[Path, str]) -> str:
    return digest(VERSION, sorted(identity or path.as_posix() for path, identity in files.items()))


def export_cameras(
    annotation_files: Iterable[Path],
    output_folder: Path,
    dataset: str,
    made_from: Mapping[str, str] | None = None,
    *,
    afresh: bool = False,
) -> tuple[Path, Path]:
    """Add the cameras of annotation files to ``<dataset>_cameras.json`` and ``.pkl``; returns both paths.

    The JSON file has this package's convention, the pickle MMPose's. Cameras of earlier calls, such as of other splits,
    stay unless `afresh`. `made_from` are identities of exported files by split, recorded in the JSON file.
    """
    how = mmpose.convention(dataset)
    as_json = output_folder / f"{dataset}_cameras.json"
    before = {} if afresh else _read_cameras(as_json)
    cameras: dict[Hashable, Camera] = before.get("cameras", {})
    for path in annotation_files:
        with xr.open_dataset(path, engine="netcdf4") as ds:
            camera = annotation.camera_of(ds)
            if camera is not None:
                cameras[how.camera_key(ds)] = camera
    ordered = sorted(cameras.items(), key=lambda item: str(item[0]))
    listed = [{"key": key, **camera.to_dict()} for key, camera in ordered]
    content = {
        "convention": "X_c = rotation X_w + translation, metres; pixels 0-based",
        "made_from": {**before.get("made_from", {}), **(made_from or {})},
        "cameras": listed,
    }
    as_pickle = as_json.with_suffix(".pkl")
    write_atomically(as_pickle, mmpose.pickle_cameras({key: how.camera(camera, key) for key, camera in ordered}))
    # Last, because it marks the export as complete.
    write_atomically(as_json, json.dumps(content, indent=1).encode())
    return as_json, as_pickle


def _read_cameras(path: Path) -> dict[str, Any]:
    """Content of `export_cameras`' JSON file, cameras by key; empty if it is missing or damaged."""
    cameras: dict[Hashable, Camera] = {}
    try:
        content = json.loads(path.read_bytes())
        for entry in content["cameras"]:
            key = entry.pop("key")
            cameras[tuple(key) if isinstance(key, list) else key] = Camera.from_dict(entry)
        return {"cameras": cameras, "made_from": dict(content["made_from"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _usable(ds: xr.Dataset) -> np.ndarray:
    finite = np.isfinite(ds["keypoints_2d"].values).all((1, 2)) & np.isfinite(ds["keypoints_3d"].values).all((1, 2))
    return ds["valid_annotation"].values & finite


def _longest_name(ds: xr.Dataset) -> int:
    """Length of the longest image name: its template with the highest numbers."""
    frame, person = int(ds["frame_number"].max()), int(ds["person"].max())
    return len(ds.attrs["imgname"].format(number=frame + 1, frame=frame, person=person))
