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

from etl.errors import WorkspaceError, XycdError
from etl.models.base import Frame, ModelSet
from etl.report.data import Material
from etl.report.drawing import Person, View, crop, draw_depth_map, draw_view, scaled
from etl.report.views import Source, boxes_of, frame_of, look, needs_root, person_of
from etl.stages.identity import build_models
from schemas.keys import SequenceKey

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


@dataclass(frozen=True)
class Place:
    """One person of one frame."""

    key: SequenceKey
    frame: int
    person: int = 0

    @property
    def title(self) -> str:
        """In words."""
        several = f" person {self.person}" if self.person else ""
        return f"{str(self.key).removeprefix(self.key.dataset + ' ')} frame {self.frame}{several}"


def truth_of(rows: xr.Dataset, place: Place) -> NDArray[np.float64]:
    """Annotated joints (17, 2) px of a place in its sequence's annotation; NaN where there are none to be used."""
    there = (rows["frame_number"].values == place.frame) & (rows["person"].values == place.person)
    if "keypoints_2d" not in rows or not (there & rows["valid_annotation"].values.astype(bool)).any():
        return np.full((17, 2), np.nan)
    return np.asarray(rows["keypoints_2d"].values[there.argmax()], np.float64)


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
        place = self.place(row)
        title = place.title
        try:
            with self._annotation(place.key) as rows:
                frame = self._frame(rows, place.frame)
                view = crop(View(frame.image, (self.person(row),), self._depth_map(frame, rows)))
        except XycdError as error:
            return Picture(title, f"{note}; not shown: {error.found}")
        big = scaled(view, HEIGHT)
        depth = draw_depth_map(big)
        images = [draw_view(big), *([depth] if depth is not None else [])]
        return Picture(title, note, tuple(map(data_uri, images)))

    def thumbnail(self, place: Place) -> Picture:
        """A whole frame, small, with the annotated joints; nothing was found in it, since it is about failures.

        Read from the annotation and the media alone, so that it needn't be among the rows that are looked at.
        """
        try:
            with self._annotation(place.key) as rows:
                frame = self._frame(rows, place.frame)
                truth = truth_of(rows, place)
        except XycdError as error:
            return Picture(place.title, error.found)
        empty = np.full(17, np.nan)
        person = Person(np.full((17, 2), np.nan), empty, empty, np.full(4, np.nan), truth=truth)
        small = scaled(View(frame.image, (person,) if np.isfinite(truth).any() else ()), THUMBNAIL)
        return Picture(place.title, "", (data_uri(draw_view(small, discs=False)),))

    def place(self, row: int) -> Place:
        """Frame number of a row."""
        rows = self.material.rows
        return Place(self.material.keys[rows.sequence[row]], int(rows.frame[row]), int(rows.person[row]))

    def person(self, row: int) -> Person:
        """The row's person, as stored."""
        rows = self.material.rows
        values = np.concatenate([rows.xy[row], rows.confidence[row, :, None], rows.depth[row, :, None]], axis=1)
        truth = rows.true_xy[row].astype(np.float64)
        known = truth if np.isfinite(truth).any() else None
        return person_of(values, rows.box[row], self.source.settings.descriptor, truth=known)

    @contextmanager
    def _annotation(self, key: SequenceKey) -> Iterator[xr.Dataset]:
        path = self.material.annotations / f"{key.path}.nc"
        try:
            rows = xr.open_dataset(path, engine="netcdf4")
        except OSError as error:
            raise WorkspaceError(
                "Annotations can be read.", f"{path}: {error}", "Run `xycd annotate` again."
            ) from error
        with rows:
            yield rows

    def _frame(self, rows: xr.Dataset, number: int) -> Frame:
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
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in painter.material.failures.to_dict("records"):
        failure = {str(name): value for name, value in record.items()}
        # Frames whose reasons differ by numbers only failed for one reason.
        kind = (failure["what"], re.sub(r"\d+", "#", failure["reason"]))
        groups.setdefault(kind, []).append(failure)
    kinds = []
    for (what, _), entries in groups.items():
        firsts: dict[SequenceKey, dict[str, Any]] = {}
        for entry in entries:
            firsts.setdefault(_key_of(entry), entry)
        # One of each sequence first: neighbouring frames look alike.
        frames = (entry for entry in [*firsts.values(), *entries] if str(entry["frame"]).isdigit())
        places = dict.fromkeys(Place(_key_of(e), int(e["frame"]), int(e["person"] or 0)) for e in frames)
        pictures = tuple(painter.thumbnail(place) for place in list(places)[:most])
        where = f"{len(firsts):,} sequence{'s' if len(firsts) > 1 else ''}"
        kinds.append(FailureKind(what, str(entries[0]["reason"]), len(entries), where, pictures))
    return sorted(kinds, key=lambda kind: -kind.count)


def _key_of(entry: dict[str, Any]) -> SequenceKey:
    """Sequence of a line of etl.store.failures."""
    names = ("dataset", "subject", "action", "subaction", "camera")
    dataset, subject, action, subaction, camera = (entry[name] for name in names)
    return SequenceKey(str(dataset), str(subject), str(action), int(subaction), str(camera))
