"""A finished workspace of Human3.6M's size, without running a network: 840 sequences, 2.1 million frames, 4,500 files.

    python -m benchmarks.simulate FOLDER [--share 0.1]

The raw dataset has the release's names and metadata.xml, and empty videos and pose files; the annotations and features
are random people and detections some pixels beside them. About 5 GB; names, attributes and receipts are those of a
real run, so that every command takes the workspace for one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

from etl import pipeline
from etl.config import Config, load
from etl.datasets.base import Sequence
from etl.demo.human36m import ACTIONS, CAMERAS, file_prefix, write_metadata
from etl.execution.job import DatasetJob
from etl.stages.annotate import identity_of
from etl.stages.files.manifest import Entry, Manifest
from etl.store.partition import Partition, Receipt
from etl.store.workspace import Current, file_sha256
from schemas import annotation, features
from schemas.features import Status
from schemas.keys import SequenceKey

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
LEAST, MOST = 1_000, 4_000  # frames of a sequence: 2,500 in the mean
KINDS = 8  # different sequences; the others are copies under other names
NOBODY = 100  # the frame of each partition in which nobody was found


def settings(folder: Path) -> Config:
    """The configuration that made, as it were, the workspace in `folder`."""
    datasets = {"h36m": {"root": str(folder / "raw"), "hz": 50}}
    return load(None, {"workspace": str(folder / "workspace"), "datasets": datasets}, {})


def build(folder: Path, share: float = 1.0) -> Config:
    """Make raw dataset and workspace in `folder`; with a smaller `share`, fewer actions."""
    config = settings(folder)
    actions = ACTIONS[1 : 1 + max(round(15 * share), 1)]
    _raw(folder / "raw", actions)
    job = DatasetJob("h36m", config)
    with job.workspace.writing():
        _annotate(job)
        job.workspace.set_current("h36m", Current(job.annotations_key, job.store.folder.name))
        job.store.create(job.stage)
        maker = _Maker(job)
        lines = [maker.write(part).to_json() for part in job.partitions(job.annotation_files())]
        job.store.receipts_path.write_text("\n".join(lines) + "\n")
    pipeline.run(config, stages=("annotate",))  # what annotate writes beside the annotations
    return config


@contextmanager
def simulated(store: Path | None, share: float = 1.0) -> Iterator[Config]:
    """The workspace in `store`, made there if need be and kept; without it, a temporary one."""
    if store is not None:
        marker = store / "finished"
        if not marker.exists():
            build(store, share)
            marker.touch()
        yield settings(store)
        return
    folder = Path(tempfile.mkdtemp(prefix="xycd-simulated-"))
    try:
        yield build(folder, share)
    finally:
        shutil.rmtree(folder)


def _raw(root: Path, actions: tuple[str, ...]) -> None:
    """What a reader looks at before it reads poses."""
    keys = [(s, a, n) for s in SUBJECTS for a in actions for n in (1, 2)]
    folders = ("Videos", "MyPoseFeatures/D2_Positions", "MyPoseFeatures/D3_Positions_mono")
    for subject, action, subaction in keys:
        for place, suffix in zip(folders, ("mp4", "cdf", "cdf"), strict=True):
            (root / subject / place).mkdir(parents=True, exist_ok=True)
            for camera in CAMERAS:
                (root / subject / place / f"{file_prefix(subject, action, subaction)}.{camera}.{suffix}").touch()
    write_metadata(root / "metadata.xml", {key: dict.fromkeys(CAMERAS, MOST) for key in keys})


def _length(number: int, count: int) -> int:
    """Frames of sequence `number` of `count`: all lengths from LEAST to MOST, in no order."""
    return LEAST + (MOST - LEAST) * ((number * 337) % count) // max(count - 1, 1)


def _annotate(job: DatasetJob) -> None:
    """Annotation files and their manifest, by which `annotate` finds them up to date."""
    sequences, entries = job.reader.sequences(), {}
    kinds = [annotation.mock(frames=MOST, seed=kind) for kind in range(KINDS)]
    for number, sequence in enumerate(sequences):
        ds = kinds[number % KINDS].isel(frame=slice(0, _length(number, len(sequences)))).copy()
        identity = identity_of(sequence, job.reader)
        ds.attrs |= _attributes(sequence) | {"provenance": json.dumps({"identity": identity, "kind": number % KINDS})}
        path = job.annotations / f"{sequence.key.path}.nc"
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.to_netcdf(path, engine="netcdf4", format="NETCDF4")
        entries[f"{sequence.key.path}.nc"] = Entry(sequence.split, ds.sizes["frame"], identity)
    (job.annotations / "manifest.json").write_text(Manifest("h36m", entries, {}).to_json())


def _attributes(sequence: Sequence) -> dict[str, object]:
    return _names(sequence.key) | {
        "split": sequence.split,
        "release_name": sequence.release_name,
        "media": json.dumps(sequence.media.to_dict(), sort_keys=True),
        "camera_parameters": json.dumps(sequence.camera.to_dict() if sequence.camera else None),
    }


def _names(key: SequenceKey) -> dict[str, object]:
    return {name: getattr(key, name) for name in ("subject", "action", "subaction", "camera")}


class _Maker:
    """Writes feature files: a template for each kind of sequence and run of frames, copied and renamed."""

    def __init__(self, job: DatasetJob) -> None:
        self.job = job
        self.templates: dict[tuple[int, int, int], tuple[bytes, dict[str, int]]] = {}

    def write(self, part: Partition) -> Receipt:
        with netCDF4.Dataset(self.job.annotations / part.annotation) as truth:
            kind = json.loads(truth.getncattr("provenance"))["kind"]
        content, counts = self._template(kind, part)
        path = self.job.store.folder / part.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        with netCDF4.Dataset(path, "r+") as file:
            file.setncatts(_names(part.key) | {"partition": part.id})
        size, checksum = path.stat().st_size, file_sha256(path)
        return Receipt(part.id, str(part.path), part.rows, part.frames, counts, size, checksum, 1.0, "simulated")

    def _template(self, kind: int, part: Partition) -> tuple[bytes, dict[str, int]]:
        key = (kind, part.first, part.rows)
        if key not in self.templates:
            ds = features.mock(frames=part.rows, first=part.first, seed=kind)
            with xr.open_dataset(self.job.annotations / part.annotation, engine="netcdf4") as truth:
                there = truth["keypoints_2d"].values[part.first : part.first + part.rows]
            values = ds["features"].values
            values[..., :2] = there + np.random.default_rng(kind).normal(0, 5, there.shape)
            counts = {"ok": part.rows}
            if part.rows > NOBODY:
                ds["status"].values[NOBODY], values[NOBODY] = Status.NO_PERSON, np.nan
                ds["joint_valid"].values[NOBODY] = False
                counts = {"ok": part.rows - 1, "no_person": 1}
                ds.attrs["failures"] = json.dumps([[NOBODY, "no person detected"]])
            ds.attrs |= {"stage": json.dumps(self.job.stage, sort_keys=True), "xycd_version": "simulated"}
            path = self.job.store.folder / ".template"
            features.validate(ds).to_netcdf(path, engine="netcdf4", format="NETCDF4")
            self.templates[key] = (path.read_bytes(), counts)
            path.unlink()
        return self.templates[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args()
    with simulated(options.folder, options.share) as config:
        print(f"workspace {config.workspace}")


if __name__ == "__main__":
    main()
