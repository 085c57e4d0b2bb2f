"""The pictures of a report: frames with everything drawn on them, as JPEG data URIs."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.errors import XycdError
from etl.looking import Source, boxes_of, frame_of, look, needs_root, person_of
from etl.models.base import Frame, ModelSet
from etl.overlay import Person, View, crop, draw_depth_map, draw_view, scaled
from etl.report.data import Material
from etl.stages.estimate import build_models
from schemas.features import Status

Image = NDArray[np.uint8]
HEIGHT: Final = 540
THUMBNAIL: Final = 150
_QUALITY: Final = 82


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Parameters
    ----------
    title, note : str
        Which frame, and what is to be said of it.
    images : tuple of str
        Data URIs; empty where the frame can't be shown, and `note` says why.
    """

    title: str
    note: str
    images: tuple[str, ...] = ()


def data_uri(image: Image) -> str:
    """An RGB image as a JPEG data URI."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise XycdError("A picture can be encoded as JPEG.", f"one of {image.shape} can't", "Report this.")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


class Painter:
    """Draws rows of the material; asks the models for depth maps, which aren't stored.

    Parameters
    ----------
    material : Material
        The rows.
    root : Path, optional
        Folder of the raw dataset, where it has moved.
    depth : bool
        Run the models again on the frames that are shown.
    """

    def __init__(self, material: Material, root: Path | None = None, *, depth: bool = True) -> None:
        self.material = material
        self.source = Source.of(material.store, root)
        self.problem = "" if depth else "depth maps weren't asked for"
        self._models: ModelSet | None = None
        self._wanted = depth

    def frame_picture(self, row: int, note: str) -> Picture:
        """The row's frame around its person: skeletons, box, discs and depths; and the depth map."""
        title = self.title(row)
        try:
            with self._annotation(row) as rows:
                frame = self._frame(rows, row)
                view = crop(View(frame.image, (self.person(row),), self._depth_map(frame, rows)))
        except XycdError as error:
            return Picture(title, f"{note}; not shown: {error.found}")
        big = scaled(view, HEIGHT)
        depth = draw_depth_map(big)
        images = [draw_view(big), *([depth] if depth is not None else [])]
        return Picture(title, note, tuple(map(data_uri, images)))

    def thumbnail(self, row: int, note: str) -> Picture:
        """The row's whole frame, small; what was found in it isn't drawn, since it is about failures."""
        try:
            with self._annotation(row) as rows:
                frame = self._frame(rows, row)
        except XycdError as error:
            return Picture(self.title(row), f"{note} ({error.found})" if error.found not in note else note)
        truth = self.material.rows.true_xy[row]
        empty = np.full(17, np.nan)
        person = Person(np.full((17, 2), np.nan), empty, empty, np.full(4, np.nan), truth=truth.astype(np.float64))
        small = scaled(View(frame.image, (person,) if np.isfinite(truth).any() else ()), THUMBNAIL)
        return Picture(self.title(row), note, (data_uri(draw_view(small, discs=False)),))

    def title(self, row: int) -> str:
        """Which frame it is, in words."""
        rows = self.material.rows
        several = f" person {rows.person[row]}" if rows.person[row] else ""
        key = self.material.keys[rows.sequence[row]]
        return f"{str(key).removeprefix(key.dataset + ' ')} frame {rows.frame[row]}{several}"

    def person(self, row: int) -> Person:
        """The row's person, as stored."""
        rows = self.material.rows
        values = np.concatenate([rows.xy[row], rows.confidence[row, :, None], rows.depth[row, :, None]], axis=1)
        truth = rows.true_xy[row].astype(np.float64)
        known = truth if np.isfinite(truth).any() else None
        return person_of(values, rows.box[row], self.source.settings.descriptor, truth=known)

    @contextmanager
    def _annotation(self, row: int) -> Iterator[xr.Dataset]:
        key = self.material.keys[self.material.rows.sequence[row]]
        with xr.open_dataset(self.material.annotations / f"{key.path}.nc", engine="netcdf4") as rows:
            yield rows

    def _frame(self, rows: xr.Dataset, row: int) -> Frame:
        number = int(self.material.rows.frame[row])
        return frame_of(rows, number, needs_root(self.source), self.source.settings.field_of_view)

    def _depth_map(self, frame: Frame, rows: xr.Dataset) -> NDArray[np.float32] | None:
        """The whole depth map, from the models again; None where they can't be had any more."""
        if not self._wanted:
            return None
        try:
            self._models = self._models or build_models(self.source.models)
            return look(
                frame, boxes_of(rows, frame.number, self.source.settings), self._models, self.source.settings
            ).depth_map
        except Exception as error:  # whatever a network raises costs the depth maps, not the report
            self._wanted = False
            self.problem = f"no depth maps: {error}"
            return None


def examples(painter: Painter, chosen: dict[str, list[int]], note: Callable[[int], str]) -> dict[str, list[Picture]]:
    """Pictures of the chosen rows."""
    return {name: [painter.frame_picture(row, note(row)) for row in rows] for name, rows in chosen.items()}


@dataclass(frozen=True)
class FailureKind:
    """Frames that failed for one reason.

    Parameters
    ----------
    what, reason : str
        Status, and the reason of the first of them.
    count : int
        Frames or files.
    where : str
        In how many sequences.
    pictures : tuple of Picture
        Some of them.
    """

    what: str
    reason: str
    count: int
    where: str
    pictures: tuple[Picture, ...] = ()


def failure_kinds(painter: Painter, most: int = 4) -> list[FailureKind]:
    """Failures by status and reason, the most frequent first, with thumbnails of the first few frames."""
    found, rows = painter.material.failures, painter.material.rows
    row_of = {
        key: i
        for i, key in enumerate(zip(rows.sequence.tolist(), rows.frame.tolist(), rows.person.tolist(), strict=True))
    }
    sequence_of = {
        (key.subject, key.action, key.subaction, key.camera): i for i, key in enumerate(painter.material.keys)
    }
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in found.to_dict("records"):
        failure = {str(name): value for name, value in record.items()}
        # Frames whose reasons differ by numbers only failed for one reason.
        kind = (failure["what"], re.sub(r"\d+", "#", failure["reason"]))
        groups.setdefault(kind, []).append(failure)
    kinds = []
    for (what, _), entries in groups.items():
        pictures: list[Picture] = []
        places: dict[tuple[str, str, int, str], dict[str, Any]] = {}
        for entry in entries:
            places.setdefault(_sequence(entry), entry)
        # One of each sequence first: neighbouring frames look alike.
        for entry in [*places.values(), *entries]:
            row = _row(entry, sequence_of, row_of)
            if len(pictures) < most and row is not None and rows.status[row] != Status.OK:
                picture = painter.thumbnail(row, "")
                pictures += [picture] if picture not in pictures else []
        where = f"{len(places):,} sequence{'s' if len(places) > 1 else ''}"
        kinds.append(FailureKind(what, str(entries[0]["reason"]), len(entries), where, tuple(pictures)))
    return sorted(kinds, key=lambda kind: -kind.count)


def _sequence(entry: dict[str, Any]) -> tuple[str, str, int, str]:
    return entry["subject"], entry["action"], entry["subaction"], entry["camera"]


def _row(
    entry: dict[str, Any],
    sequence_of: dict[tuple[str, str, int, str], int],
    row_of: dict[tuple[int, int, int], int],
) -> int | None:
    """Row of a failed frame; None for whole files, and for frames that aren't among the rows looked at."""
    sequence = sequence_of.get(_sequence(entry))
    if sequence is None or not str(entry["frame"]).isdigit():
        return None
    return row_of.get((sequence, int(entry["frame"]), int(entry["person"] or 0)))
