"""Rows of feature files as plain arrays, each with its ground truth."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from etl.stages.join import match, names_of, opened, rows_of
from etl.store.netcdf import read_array
from schemas import annotation, features
from schemas.features import Status

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Rows of many sequences, one a frame and person, with their ground truth where there is one.

    Parameters
    ----------
    sequence : (N,) int32
        Which of the sequences.
    frame, person : (N,) int32
        As in the files.
    status : (N,) int8
        schemas.features.Status.
    xy : (N, 17, 2) float32
        Detected, full-image px; NaN where status isn't ok.
    confidence : (N, 17) float32
        Of the detector.
    depth, depth_min, depth_max : (N, 17) float32
        Metres.
    box : (N, 4) float32
        x1, y1, x2, y2 px of the chosen person.
    true_xy, true_depth : (N, 17, 2), (N, 17) float32
        px, and metres from the camera's plane; NaN without ground truth, and where the release calls it unusable.
    """

    sequence: NDArray[np.int32]
    frame: NDArray[np.int32]
    person: NDArray[np.int32]
    status: NDArray[np.int8]
    xy: Floats
    confidence: Floats
    depth: Floats
    depth_min: Floats
    depth_max: Floats
    box: Floats
    true_xy: Floats
    true_depth: Floats

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the rows, by index or mask."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,) rows with a person."""
        return self.status == Status.OK

    @property
    def has_truth(self) -> bool:
        """Whether any row has ground truth."""
        return bool(np.isfinite(self.true_xy).any())

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """One after the other."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def read_rows(annotated: Path, path: Path, sequence: int = 0, step: int = 1) -> Rows:
    """Every `step`-th row of one feature file, with its annotation.

    Parameters
    ----------
    annotated, path : Path
        The annotation file of the sequence, and one of its feature files.
    sequence : int
        What `Rows.sequence` is to say.
    step : int
        1 for all rows.

    Raises
    ------
    etl.errors.MergeError
        When a file can't be read.
    """
    with opened(path, f"xycd features {features.VERSION}", "estimate") as ds:
        index = rows_of(ds)[::step]
        names = names_of(ds)
        values, status, box = (read_array(ds, name)[::step] for name in ("features", "status", "bbox"))
    columns = {name: values[..., names.index(name)] for name in features.BASIC_FEATURES}
    true_xy, true_depth = _truth(annotated, index)
    return Rows(
        sequence=np.full(len(index), sequence, np.int32),
        frame=index[:, 1].astype(np.int32),
        person=index[:, 0].astype(np.int32),
        status=status,
        xy=np.stack([columns["x"], columns["y"]], axis=-1),
        confidence=columns["confidence"],
        depth=columns["depth"],
        depth_min=columns["depth_min"],
        depth_max=columns["depth_max"],
        box=box,
        true_xy=true_xy,
        true_depth=true_depth,
    )


def _truth(path: Path, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Ground truth of rows (M, 2); NaN where there is none."""
    xy = np.full((len(index), 17, 2), np.nan, np.float32)
    depth = np.full((len(index), 17), np.nan, np.float32)
    with opened(path, f"xycd annotation {annotation.VERSION}", "annotate") as ds:
        if "keypoints_2d" in ds:
            target = match(rows_of(ds), index).target
            good = target >= 0
            good[good] = read_array(ds, "valid_annotation").astype(bool)[target[good]]
            xy[good] = read_array(ds, "keypoints_2d")[target[good]]
            depth[good] = read_array(ds, "keypoints_3d")[target[good], :, 2]
    return xy, depth
