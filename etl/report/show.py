"""Draw features on one frame, or on a whole sequence as a video."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import xarray as xr

from etl.config import EstimateSettings, ModelSettings
from etl.errors import ConfigError, MediaError, MergeError, ModelError, WorkspaceError
from etl.media.image import read_image
from etl.models.base import Frame
from etl.report.data import the_only_dataset
from etl.report.drawing import Image, Person, View, banner, crop, draw_view, panels, picture_target, save, scaled
from etl.report.views import Source, boxes_of, decoded, frame_of, look, needs_root, person_of
from etl.results.rows import Rows, read_rows
from etl.stages.blocks.people import box_of_keypoints
from etl.stages.identity import build_models
from etl.store.workspace import FeatureStore, Workspace, atomic_target
from schemas.camera import Camera
from schemas.features import Status
from schemas.keys import SequenceKey

HEIGHT: Final = 900
VIDEO_HEIGHT: Final = 720
VERIFY: Final = "Run `xycd estimate --verify`, which makes damaged files again."


def show_image(
    path: Path, to: Path, models: ModelSettings, settings: EstimateSettings | None = None, *, around: bool = False
) -> int:
    """Run the models on an image file and draw all people in it.

    Parameters
    ----------
    path, to : Path
        The image, and the picture to write (.png or .jpg).
    models : ModelSettings
        The model set.
    settings : EstimateSettings, optional
        Field of view and descriptor.
    around : bool
        Show only the part around the people.

    Returns
    -------
    int
        People found.

    Raises
    ------
    etl.errors.XycdError
        When the image, the models or the target can't be had.
    """
    settings = (settings or EstimateSettings()).model_copy(update={"association": "overlap", "min_overlap": 0.5})
    picture_target(to)
    image = read_image(path, settings.max_pixels)
    camera = Camera.from_field_of_view(image.shape[1], image.shape[0], settings.field_of_view)
    frame = Frame(SequenceKey("folder", "", path.stem, 0, ""), 0, image, camera)
    built = build_models(models)
    (poses,) = built.estimate_poses([frame], built.detect([frame]))
    # The boxes of all poses stand for the annotated people.
    everybody = box_of_keypoints(poses.keypoints).astype(np.float32)
    view = look(frame, everybody, built, settings) if len(poses) else View(image)
    people = len(view.people)
    text = f"{path.name}   {people} {'person' if people == 1 else 'people'}   {models.set}"
    _save(view, text, to, around=around)
    return people


def _save(view: View, text: str, to: Path, *, around: bool) -> None:
    shown = crop(view) if around else view
    # A part is enlarged, so that what is drawn on it can be read.
    height = HEIGHT if around else min(HEIGHT, max(view.image.shape[0], 360))
    save(banner(panels(shown, height, coco=True), text), to)


@dataclass(frozen=True)
class Stored:
    """One sequence of a workspace.

    Parameters
    ----------
    key : SequenceKey
        Which.
    store : FeatureStore
        Where its features are.
    annotation : Path
        Its annotation file.
    source : Source
        Where its frames are.
    """

    key: SequenceKey
    store: FeatureStore
    annotation: Path
    source: Source

    def rows(self) -> Rows:
        """All finished rows that can be read, by frame and person.

        Raises
        ------
        WorkspaceError
            When there are none.
        """
        return self.rows_and_damage()[0]

    def rows_and_damage(self) -> tuple[Rows, list[str]]:
        """Return these rows, and the damaged files with their reasons."""
        parts, damaged = [], []
        for path in (r.path for r in self.store.receipts().values() if self._mine(r.path)):
            try:
                parts.append(read_rows(self.annotation, self.store.folder / path))
            except MergeError as error:
                damaged.append(error.found)
        if not parts:
            found = damaged[0] if damaged else f"none of {self.key}"
            raise WorkspaceError("A sequence that is shown has files that can be read.", found, VERIFY)
        rows = Rows.join(parts)
        return rows.take(np.lexsort((rows.person, rows.frame))), damaged

    def _mine(self, path: str) -> bool:
        there = (self.store.folder / path).exists()
        return there and SequenceKey.from_path(self.key.dataset, path) == self.key

    def people(self, rows: Rows) -> tuple[Person, ...]:
        """Return the people of rows with a detection, as stored."""
        found = []
        for i in np.flatnonzero(rows.status == Status.OK):
            values = np.concatenate([rows.xy[i], rows.confidence[i, :, None], rows.depth[i, :, None]], axis=1)
            truth = rows.true_xy[i].astype(np.float64)
            known = truth if np.isfinite(truth).any() else None
            found.append(person_of(values, rows.box[i], self.source.settings.descriptor, truth=known))
        return tuple(found)


def find_sequence(root: Path, name: str, dataset: str | None = None, raw: Path | None = None) -> Stored:
    """Find a sequence by a name such as ``S1/Directions/1/54138969``, or by its path in the workspace.

    Parameters
    ----------
    root : Path
        The workspace.
    name : str
        Subject, action, number and camera.
    dataset : str, optional
        Optional if the workspace has only one.
    raw : Path, optional
        Folder of the raw dataset, where it has moved.

    Raises
    ------
    WorkspaceError
        When there is no such sequence with finished features.
    """
    workspace = Workspace(root)
    dataset = dataset or the_only_dataset(workspace)
    current = workspace.current(dataset)
    if current.features is None:
        raise WorkspaceError("Show needs features.", f"only annotations of {dataset}", "Run `xycd estimate`.")
    store = workspace.features(dataset, current.features)
    known = {SequenceKey.from_path(dataset, receipt.path) for receipt in store.receipts().values()}
    named = {f"{key.subject}/{key.action}/{key.subaction}/{key.camera}": key for key in sorted(known)}
    key = named.get(name) or {key.path.as_posix(): key for key in known}.get(name.removesuffix(".nc"))
    if key is None:
        some = ", ".join(list(named)[:3]) or "none"
        raise WorkspaceError(
            "What is shown is an image file, or a sequence as subject/action/number/camera.",
            f"{name!r}, neither a file nor among the {len(named)} finished sequences of {dataset}",
            f"Give one of these: {some}{' …' if len(named) > 3 else ''}",
        )
    annotation = workspace.annotations(dataset, current.annotations) / f"{key.path}.nc"
    return Stored(key, store, annotation, Source.of(store, raw))


def show_frame(stored: Stored, number: int, to: Path, *, depth: bool = True, around: bool = False) -> str:
    """Draw one frame of a sequence with its stored features and, optionally, results of running the models again.

    Parameters
    ----------
    stored : Stored
        The sequence.
    number : int
        0-based frame of its media.
    to : Path
        The picture (.png or .jpg).
    depth : bool
        Run the models on the frame, for the COCO skeleton and the depth map.
    around : bool
        Show only the part around the people.

    Returns
    -------
    str
        What is missing in the picture, in words; empty if nothing is.

    Raises
    ------
    etl.errors.XycdError
        When there is no such frame.
    """
    picture_target(to)
    rows, damaged = stored.rows_and_damage()
    own = rows.take(rows.frame == number)
    if not len(own):
        first, last = int(rows.frame.min()), int(rows.frame.max())
        besides = f"; damaged: {', '.join(damaged)}" if damaged else ""
        raise WorkspaceError(
            "A frame that is shown was estimated.",
            f"frame {number} of {stored.key}, which has {len(np.unique(rows.frame))} from {first} to {last}{besides}",
            f"Give one of these{f', or fix the damage: {VERIFY}' if damaged else '.'}",
        )
    with xr.open_dataset(stored.annotation, engine="netcdf4") as annotated:
        root, settings = needs_root(stored.source), stored.source.settings
        frame = frame_of(annotated, number, root, settings.field_of_view)
        boxes = boxes_of(annotated, number, settings)
    view, missing = View(frame.image, stored.people(own)), ""
    if depth:
        try:
            seen = look(frame, boxes, build_models(stored.source.models), settings)
            view = _completed(view, seen)
        except ModelError as error:
            missing = f"no depth map and COCO skeleton: {error.found}"
    text = f"{stored.key}   frame {number}   " + ", ".join(Status(s).name.lower() for s in own.status)
    _save(view, text, to, around=around)
    return missing


def _completed(view: View, seen: View) -> View:
    """Add the depth map and the COCO joints of `seen` to a stored view."""
    people = view.people
    if len(seen.people) == len(people):
        people = tuple(replace(p, coco=s.coco) for p, s in zip(people, seen.people, strict=True))
    return View(view.image, people, seen.depth_map)


def show_video(stored: Stored, to: Path, *, height: int = VIDEO_HEIGHT) -> int:
    """Write a sequence with its stored features drawn on it as an H.264 video.

    Parameters
    ----------
    stored : Stored
        The sequence.
    to : Path
        The video (.mp4).
    height : int
        Of its frames, px; not more than the media's.

    Returns
    -------
    int
        Frames written: those estimated that can be decoded.

    Raises
    ------
    etl.errors.XycdError
        When no frame can be decoded, or the target can't be written.
    """
    if to.suffix != ".mp4":
        raise ConfigError("A video's name must end in .mp4.", f"the name {to.name!r}", "Give another name to --to.")
    rows = stored.rows()
    with xr.open_dataset(stored.annotation, engine="netcdf4") as annotated:
        attributes = dict(annotated.attrs)
    rate = Fraction(float(attributes["rate_hz"]) or 25.0).limit_denominator(1000)
    numbers = np.unique(rows.frame).tolist()
    frames = decoded(attributes, numbers, needs_root(stored.source))
    drawn = (_video_frame(stored, rows.take(rows.frame == number), image, height) for number, image in frames)
    with atomic_target(to) as temporary:
        count = write_video(drawn, temporary, rate)
    return count


def _video_frame(stored: Stored, rows: Rows, image: Image, height: int) -> Image:
    view = scaled(View(image, stored.people(rows)), min(height, image.shape[0]) // 2 * 2)
    return draw_view(view)


def write_video(images: Iterable[Image], to: Path, rate: Fraction) -> int:
    """Write RGB images of one size as H.264 in MP4; how many there were.

    Raises
    ------
    MediaError
        When there is none.
    """
    iterator: Iterator[Image] = iter(images)
    first = next(iterator, None)
    if first is None:
        raise MediaError("A video needs frames.", "no frame that can be decoded", "See `xycd failures`.")
    # 4:2:0 halves the colours' resolution, so both sides must be even.
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    count = 0
    with av.open(str(to), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in itertools.chain([first], iterator):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode())
    return count


def default_target(what: str, number: int | None, *, video: bool) -> Path:
    """Default name of the picture or video, in the working folder."""
    stem = Path(what).stem if Path(what).is_file() else what.replace("/", "_")
    if video:
        return Path(f"{stem}.mp4")
    return Path(f"{stem}_overlay.png" if number is None else f"{stem}_{number:06d}.png")
