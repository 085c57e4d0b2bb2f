"""Partitions: runs of frames of one sequence, the unit of work, of storage and of resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import WorkspaceError
from etl.store.netcdf import number_of, opened, read_array, text_of
from schemas import annotation
from schemas.keys import SequenceKey

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Partition:
    """A run of frames of one sequence, under one stage key.

    Parameters
    ----------
    key : SequenceKey
        The sequence.
    first, last : int
        First and last frame number, inclusive.
    rows : int
        Rows of the annotation dataset in it, one per frame and annotated person.
    frames : int
        Number of distinct frames in it.
    id : str
        16 hex digits: a hash of all inputs of its result. Its ordinal is no input.
    annotation : str
        The sequence's annotation file, relative to the annotations' folder.
    """

    key: SequenceKey
    first: int
    last: int
    rows: int
    frames: int
    id: str
    annotation: str

    @cached_property
    def path(self) -> PurePosixPath:
        """Path of its feature file, relative to the stage key's folder."""
        return self.key.path / f"{self.first:06d}-{self.last:06d}_{self.id}.nc"


@dataclass(frozen=True)
class Receipt:
    """Proof of a finished partition: returned by the worker, kept in the index of receipts.

    Parameters
    ----------
    id, path : str
        The partition's id and its file, relative to the stage key's folder.
    rows, frames : int
        Size of the partition.
    counts : dict of str to int
        Rows by status.
    bytes : int
        Size of the file.
    sha256 : str
        Of the file.
    seconds : float
        Wall time of the worker, with decoding and writing. If the worker was still running the previous partition,
        from when the networks were free.
    worker : str
        Host and process.
    wait_s, model_s : float
        Wall time for which the models waited for frames, and for which they worked; 0 if unknown.
    written : float
        Epoch second at which the file was written, by the worker's clock; 0 if unknown.
    """

    id: str
    path: str
    rows: int
    frames: int
    counts: dict[str, int]
    bytes: int
    sha256: str
    seconds: float
    worker: str
    wait_s: float = 0.0
    model_s: float = 0.0
    written: float = 0.0

    def to_json(self) -> str:
        """Return the line of the index."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Receipt:
        """Read a line of the index."""
        return cls(**json.loads(line))


def digest(*values: Any, length: int = 16) -> str:
    """Hex digest of JSON-ready values and arrays; equal values give equal digests on every machine."""
    state = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            state.update(f"{value.dtype.str}{value.shape}".encode())
            state.update(np.ascontiguousarray(value).tobytes())
        else:
            state.update(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
        state.update(b"\0")
    return state.hexdigest()[:length]


@dataclass(frozen=True)
class SequenceRows:
    """The part of a sequence's annotation that its partitions depend on.

    Parameters
    ----------
    key : SequenceKey
        The sequence.
    split : str
        Split of the dataset that it belongs to.
    has_truth : bool
        Whether it has annotated joints.
    identity : dict
        Attributes that identify the inputs, JSON-ready.
    frame_number, person : (N,) int32
        The rows.
    boxes : tuple of arrays
        Centres (N, 2) of the annotated boxes and joints (N, 17, 2), px; empty without ground truth or if not wanted.
    """

    key: SequenceKey
    split: str
    has_truth: bool
    identity: dict[str, Any]
    frame_number: NDArray[np.int32]
    person: NDArray[np.int32]
    boxes: tuple[NDArray[np.float64], ...] = ()

    @classmethod
    def of(cls, ds: xr.Dataset, *, boxes: bool = True) -> SequenceRows:
        """Take the rows of an annotation dataset."""
        names = _BOXES if boxes and annotation.has_ground_truth(ds) else ()
        return cls(
            key=annotation.key_of(ds),
            split=ds.attrs["split"],
            has_truth=annotation.has_ground_truth(ds),
            identity=_identity(ds.attrs),
            frame_number=ds["frame_number"].values,
            person=ds["person"].values,
            boxes=tuple(ds[name].values for name in names),
        )

    @classmethod
    def read(cls, path: Path, *, boxes: bool = True) -> SequenceRows:
        """Read the rows of an annotation file, and nothing else: a resume reads hundreds of files.

        Raises
        ------
        OSError
            When it can't be read.
        """
        with opened(path) as file:
            numbers = {name: number_of(file.attrs[name]) for name in ("media_bytes", "rate_hz", "subaction")}
            names = ("dataset", "subject", "action", "camera", "split", "media", "camera_parameters")
            texts = {name: text_of(file.attrs[name]) for name in names}
            key = SequenceKey(
                texts["dataset"], texts["subject"], texts["action"], numbers["subaction"], texts["camera"]
            )
            has_truth = "keypoints_2d" in file
            return cls(
                key=key,
                split=texts["split"],
                has_truth=has_truth,
                identity=_identity(texts | numbers),
                frame_number=read_array(file, "frame_number"),
                person=read_array(file, "person"),
                boxes=tuple(read_array(file, name) for name in _BOXES) if boxes and has_truth else (),
            )


_BOXES = ("center", "keypoints_2d")


def _identity(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "media": attributes["media"],
        "media_bytes": int(attributes["media_bytes"]),
        "rate_hz": float(attributes["rate_hz"]),
        "camera_parameters": attributes["camera_parameters"],
        "subject": attributes["subject"],
    }


def cut_sequence(
    ds: xr.Dataset | SequenceRows, annotation_path: str, stage_key: str, frames: int, *, uses_boxes: bool
) -> list[Partition]:
    """Cut a sequence's annotation dataset into partitions of at most `frames` different frames.

    Parameters
    ----------
    ds : xr.Dataset or SequenceRows
        Annotation dataset, or its rows.
    annotation_path : str
        Annotation file, relative to the annotations' folder.
    stage_key : str
        Key of the stage that will run.
    frames : int
        Frames per partition.
    uses_boxes : bool
        Whether the stage uses the annotated boxes; they are then part of the identity.

    Returns
    -------
    list of Partition
        In order of frames, with every frame.
    """
    rows = ds if isinstance(ds, SequenceRows) else SequenceRows.of(ds, boxes=uses_boxes)
    numbers = rows.frame_number
    distinct = np.unique(numbers)
    partitions = []
    for start in range(0, len(distinct), frames):
        run = distinct[start : start + frames]
        chosen = np.flatnonzero((numbers >= run[0]) & (numbers <= run[-1]))
        inputs: list[Any] = [rows.identity, stage_key, numbers[chosen], rows.person[chosen]]
        if uses_boxes:
            inputs += [values[chosen] for values in rows.boxes]
        partitions.append(
            Partition(
                key=rows.key,
                first=int(run[0]),
                last=int(run[-1]),
                rows=len(chosen),
                frames=len(run),
                id=digest(*inputs),
                annotation=annotation_path,
            )
        )
    return partitions


def check_disjoint(claims: dict[Path, tuple[SequenceKey, int, int]]) -> None:
    """Check that no two files hold the same frame.

    Parameters
    ----------
    claims : dict
        File to (sequence, first, last frame).

    Raises
    ------
    WorkspaceError
        When two files do.
    """
    previous: tuple[SequenceKey, int, int] | None = None
    previous_path = Path()
    for path, claim in sorted(claims.items(), key=lambda item: item[1]):
        if previous is not None and claim[0] == previous[0] and claim[1] <= previous[2]:
            raise WorkspaceError(
                "Every frame belongs to one feature file of a stage key.",
                f"{previous_path} and {path}, both of {claim[0]}",
                "Remove the one that you don't want.",
            )
        previous, previous_path = claim, path
