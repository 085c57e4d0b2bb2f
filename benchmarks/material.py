"""What the benchmarks of estimate work on: two rendered sequences, as H.264 and as JPEG, annotated.

Rendered once (0.1 s a frame) into a folder of the user's cache, and used again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import platformdirs
import xarray as xr

from etl.config import EstimateSettings, ModelSettings
from etl.datasets.human36m.reader import Human36M
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from etl.media.frames import Media, decode
from etl.stages.annotate import annotate
from etl.stages.estimate import Estimator
from etl.stages.identity import describe_stage, stage_key
from etl.store.partition import Partition, cut_sequence
from etl.store.workspace import FeatureStore

Kind = Literal["jpeg", "h264"]
KINDS: tuple[Kind, Kind] = ("jpeg", "h264")
QUALITY = 95
VERSION = 1


@dataclass(frozen=True)
class Material:
    """Two sequences of `frames` frames each, in both formats.

    Parameters
    ----------
    folder : Path
        Below it: raw media and annotations.
    frames : int
        A sequence.
    """

    folder: Path
    frames: int

    def root(self, kind: Kind) -> Path:
        """Folder that the media's paths are relative to."""
        return self.folder / ("raw" if kind == "h264" else "images")

    def annotations(self, kind: Kind) -> list[Path]:
        """Annotation files of the sequences."""
        return sorted((self.folder / f"annotations-{kind}").rglob("*.nc"))

    def media(self, kind: Kind) -> list[Media]:
        """Media of the sequences, below `root`."""
        found = []
        for path in self.annotations(kind):
            with xr.open_dataset(path, engine="netcdf4") as ds:
                found.append(Media.from_dict(json.loads(ds.attrs["media"])))
        return found

    def job(self, kind: Kind, workspace: Path, models: ModelSettings, **settings: object) -> Job:
        """An estimator into `workspace`, and the partitions: one a sequence."""
        chosen = EstimateSettings.model_validate({"association": "person", **settings})
        stage = describe_stage(models, chosen, {"hz": 50})
        store = FeatureStore(workspace / "features" / stage_key(stage))
        store.create(stage)
        root = self.folder / f"annotations-{kind}"
        estimator = Estimator(models, chosen, self.root(kind), root, store.folder, json.dumps(stage))
        partitions: list[Partition] = []
        for path in self.annotations(kind):
            with xr.open_dataset(path, engine="netcdf4") as ds:
                name = path.relative_to(root).as_posix()
                partitions += cut_sequence(ds, name, store.folder.name, chosen.partition_frames, uses_boxes=False)
        return Job(estimator, partitions, store)


@dataclass(frozen=True)
class Job:
    """What `etl.execution.scheduling.run_partitions` takes."""

    estimator: Estimator
    partitions: list[Partition]
    store: FeatureStore


def prepare(frames: int, folder: Path | None = None) -> Material:
    """Render, annotate and convert, unless that has been done before."""
    folder = folder or Path(platformdirs.user_cache_dir("xycd")) / "benchmarks"
    material = Material(folder / f"{frames}-frames-{VERSION}", frames)
    done = material.folder / "complete"
    if done.exists():
        return material
    shutil.rmtree(material.folder, ignore_errors=True)
    raw = material.root("h264")
    actions = ("Directions", "Walking")
    render(raw, Plan(subjects=("S1",), actions=actions, cameras=("54138969",), frames=frames))
    annotate(Human36M(raw, hz=50), material.folder / "annotations-h264")
    for path, media in zip(material.annotations("h264"), material.media("h264"), strict=True):
        target = material.folder / "annotations-jpeg" / path.relative_to(material.folder / "annotations-h264")
        target.parent.mkdir(parents=True)
        images = Media("images", Path(media.path).stem, "{number:05d}.jpg", first=1)
        _write_images(raw / media.path, material.root("jpeg"), images, frames)
        with xr.open_dataset(path, engine="netcdf4") as ds:
            ds.assign_attrs(media=json.dumps(images.to_dict())).to_netcdf(target, engine="netcdf4")
    done.touch()
    return material


def _write_images(video: Path, root: Path, images: Media, frames: int) -> None:
    (root / images.path).mkdir(parents=True)
    for frame in decode(video.parent, Media("video", video.name), range(frames)):
        assert frame.image is not None, frame.error
        picture = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(images.image_path(root, frame.number)), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def shares(material: Material, kind: Kind, number: int) -> Iterator[list[tuple[Media, int]]]:
    """(media, frame number) of all frames, in `number` runs of about the same length."""
    everything = [(media, frame) for media in material.media(kind) for frame in range(material.frames)]
    size = -(-len(everything) // number)
    for start in range(0, len(everything), size):
        yield everything[start : start + size]
