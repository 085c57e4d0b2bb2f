"""Draw people, boxes, neighbourhoods and depth on frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from etl.errors import ConfigError, XycdError
from schemas.skeletons import COCO_17, H36M_17, Skeleton

Floats = NDArray[np.floating[Any]]
Image = NDArray[np.uint8]
# Left orange, right blue, middle white: apart for colour-blind eyes too.
LEFT, RIGHT, MIDDLE, TRUTH = (245, 160, 30), (50, 130, 240), (240, 240, 240), (70, 210, 90)


def draw_skeleton(
    image: Image, joints: NDArray[np.floating], skeleton: Skeleton = H36M_17, *, truth: bool = False, width: int = 3
) -> None:
    """Draw joints (17, 2) px onto an RGB image, in place; joints that are not finite are skipped.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    joints : (J, 2) float
        px.
    skeleton : Skeleton
        Bones, and which joints are left and right.
    truth : bool
        Thin green lines, to lie under a detection.
    width : int
        Of the lines, px.
    """
    shown = np.isfinite(joints).all(-1)
    # cv2 takes fixed-point coordinates: 4 fractional bits keep the drawing where the joints are.
    points = np.round(np.where(shown[:, None], joints, 0) * 16).astype(int)

    def colour(joint: int) -> tuple[int, int, int]:
        if truth:
            return TRUTH
        return LEFT if joint in skeleton.left else RIGHT if joint in skeleton.right else MIDDLE

    for parent, child in skeleton.bones:
        if shown[parent] and shown[child]:
            start, end = points[parent].tolist(), points[child].tolist()
            cv2.line(image, start, end, colour(child), 1 if truth else width, cv2.LINE_AA, 4)
    for joint in np.flatnonzero(shown).tolist():
        cv2.circle(image, points[joint].tolist(), 16 * (2 if truth else width + 1), colour(joint), -1, cv2.LINE_AA, 4)


def draw_box(image: Image, box: NDArray[np.floating], width: int = 2) -> None:
    """Draw a box (4,) x1 y1 x2 y2 px onto an RGB image, in place."""
    if np.isfinite(box).all():
        x1, y1, x2, y2 = np.round(box).astype(int).tolist()
        cv2.rectangle(image, (x1, y1), (x2, y2), MIDDLE, width, cv2.LINE_AA)


def draw_text(image: Image, text: str, place: tuple[int, int], size: float = 0.42) -> None:
    """Write white text with a black outline, in place; `place` is its lower left corner, px."""
    x, y = place
    # The outline is the same text moved by a pixel: some versions of OpenCV make thicker letters wider.
    for moved in ((x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
        cv2.putText(image, text, moved, _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(image, text, place, _FONT, size, (255, 255, 255), 1, cv2.LINE_AA)


def draw_depths(image: Image, joints: NDArray[np.floating], depth: NDArray[np.floating]) -> None:
    """Write the depth (J,) in metres beside joints (J, 2) px, in place."""
    for xy, metres in zip(joints, depth, strict=True):
        if np.isfinite(xy).all() and np.isfinite(metres):
            x, y = np.round(xy).astype(int).tolist()
            draw_text(image, f"{metres:.2f}", (x + 8, y - 6))


def colour_depth(depth: NDArray[np.floating], near: float, far: float) -> Image:
    """Convert a depth map (H, W) in metres to RGB: near is bright, far is dark, black has no value."""
    scaled = np.nan_to_num((far - depth) / max(far - near, 1e-6), nan=0.0).clip(0, 1)
    picture = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.where(np.isfinite(depth)[..., None], picture, 0).astype(np.uint8)


def side_by_side(images: list[Image], height: int, gap: int = 6) -> Image:
    """Put images of any size in one row, each `height` px high."""
    scaled = [
        cv2.resize(i, (round(i.shape[1] * height / i.shape[0]), height), interpolation=cv2.INTER_AREA) for i in images
    ]
    space = np.full((height, gap, 3), 255, np.uint8)
    row = [part for image in scaled for part in (image, space)]
    return np.ascontiguousarray(np.concatenate(row[:-1], axis=1), np.uint8)


def picture_target(path: Path) -> Path:
    """Return `path` if it has a suffix of a picture. Called before the work begins.

    Raises
    ------
    ConfigError
        When it has another suffix.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(
            "A picture's name must end in .png or .jpg.", f"the name {path.name!r}", "Give another name to --to."
        )
    return path


def save(image: Image, path: Path) -> None:
    """Write an RGB image as PNG or JPEG, by the suffix.

    Raises
    ------
    XycdError
        When the file cannot be written.
    """
    picture_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise XycdError("The picture's folder must be writable.", f"{path} cannot be written", "Give another name.")


LABELLED: Final = (0, 3, 6, 10, 13, 16)  # pelvis, feet, head and wrists: the others would cover each other
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Person:
    """One detected person, in pixels of the image to draw on.

    Parameters
    ----------
    joints : (17, 2) float
        H36M_17, px.
    depth : (17,) float
        Metres.
    radius : (17,) float
        Of the neighbourhoods, px.
    box : (4,) float
        x1, y1, x2, y2 px.
    coco : (17, 2) float, optional
        COCO_17 joints as detected, px.
    truth : (17, 2) float, optional
        Annotated H36M_17, px.
    """

    joints: Floats
    depth: Floats
    radius: Floats
    box: Floats
    coco: Floats | None = None
    truth: Floats | None = None


@dataclass(frozen=True)
class View:
    """A frame and its detected people and depth.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    people : tuple of Person
        The detected people.
    depth_map : (H, W) float32, optional
        Metres; NaN where it has no value.
    """

    image: Image
    people: tuple[Person, ...] = ()
    depth_map: NDArray[np.float32] | None = None


def mapped(view: View, image: Image, depth_map: NDArray[np.float32] | None, factor: float, shift: Floats) -> View:
    """Move a view to another image, in which pixel p lies at factor · p + shift."""

    def move(points: Floats | None) -> Floats | None:
        return None if points is None else points * factor + shift

    people = tuple(
        replace(
            person,
            joints=person.joints * factor + shift,
            radius=person.radius * factor,
            box=person.box * factor + np.tile(shift, 2),
            coco=move(person.coco),
            truth=move(person.truth),
        )
        for person in view.people
    )
    return View(image, people, depth_map)


def crop(view: View, margin: float = 0.14, aspect: float = 0.55) -> View:
    """Crop a view to its people; without people, keep the whole frame.

    Parameters
    ----------
    view : View
        The frame.
    margin : float
        Around the joints and boxes, as a fraction of their longer side.
    aspect : float
        Least ratio of width to height, and of height to width, if the frame is large enough.
    """
    if not view.people:
        return view
    points = [p for person in view.people for p in (person.joints, person.box.reshape(2, 2))]
    points += [person.truth for person in view.people if person.truth is not None]
    every = np.concatenate(points)
    every = every[np.isfinite(every).all(1)]
    if not len(every):
        return view
    low, high = every.min(0), every.max(0)
    pad = margin * (high - low).max() / 2
    half = (high - low) / 2 + pad
    half = np.maximum(half, [aspect * half[1], half[0] / aspect])
    height, width = view.image.shape[:2]
    x1, y1 = np.clip(np.floor((low + high) / 2 - half), 0, [width - 1, height - 1]).astype(int).tolist()
    x2, y2 = np.clip(np.ceil((low + high) / 2 + half) + 1, [x1 + 1, y1 + 1], [width, height]).astype(int).tolist()
    image = np.ascontiguousarray(view.image[y1:y2, x1:x2])
    depth = None if view.depth_map is None else np.ascontiguousarray(view.depth_map[y1:y2, x1:x2])
    return mapped(view, image, depth, 1.0, np.array([-x1, -y1], np.float64))


def scaled(view: View, height: int) -> View:
    """Scale a view to `height` px; pixel centres stay pixel centres."""
    rows, columns = view.image.shape[:2]
    factor = height / rows
    size = (max(round(columns * factor), 1), height)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    image = np.ascontiguousarray(cv2.resize(view.image, size, interpolation=how), np.uint8)
    depth = view.depth_map
    if depth is not None:
        depth = np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST), np.float32)
    return mapped(view, image, depth, factor, np.full(2, (factor - 1) / 2))


def draw_view(view: View, *, coco: bool = False, discs: bool = True) -> Image:
    """Draw a view's people on a copy of its image.

    Parameters
    ----------
    view : View
        The frame.
    coco : bool
        Draw the COCO skeleton instead of the H36M one.
    discs : bool
        Draw the neighbourhoods in their real size. Depths of some joints are always drawn, in metres.
    """
    image = np.ascontiguousarray(view.image).copy()
    width = max(round(image.shape[0] / 260), 1)
    for person in view.people:
        draw_box(image, person.box, max(width - 1, 1))
        if coco and person.coco is not None:
            draw_skeleton(image, person.coco, COCO_17, width=width)
            continue
        if person.truth is not None:
            draw_skeleton(image, person.truth, H36M_17, truth=True)
        draw_skeleton(image, person.joints, H36M_17, width=width)
        if discs:
            _draw_discs(image, person)
        some = list(LABELLED)
        draw_depths(image, person.joints[some], person.depth[some])
    return image


def draw_depth_map(view: View) -> Image | None:
    """Draw the depth map in colours, with the neighbourhoods and a scale; None without a map."""
    if view.depth_map is None:
        return None
    finite = view.depth_map[np.isfinite(view.depth_map)]
    near, far = (float(v) for v in np.quantile(finite, (0.01, 0.99))) if finite.size else (0.0, 1.0)
    image = np.ascontiguousarray(colour_depth(view.depth_map, near, far))
    for person in view.people:
        _draw_discs(image, person)
    _draw_scale(image, near, far)
    return image


def panels(view: View, height: int, *, coco: bool = False) -> Image:
    """Draw the view, optionally the COCO skeleton, and the depth map if there is one, side by side."""
    big = scaled(view, height)
    known = any(person.truth is not None for person in view.people)
    row = [_labelled(draw_view(big), f"H36M joints, depth in m{'; annotated: thin green' if known else ''}")]
    if coco and any(person.coco is not None for person in view.people):
        row.append(_labelled(draw_view(big, coco=True), "COCO joints as detected; left orange, right blue"))
    depth = draw_depth_map(big)
    if depth is not None:
        row.append(_labelled(depth, "estimated depth; near is bright"))
    return side_by_side(row, height)


def _labelled(image: Image, text: str) -> Image:
    """Write a label in the upper left corner if it fits, in place."""
    if cv2.getTextSize(text, _FONT, 0.6, 1)[0][0] + 24 <= image.shape[1]:
        draw_text(image, text, (12, 28), 0.6)
    return image


def _draw_discs(image: Image, person: Person) -> None:
    for centre, radius in zip(person.joints, person.radius, strict=True):
        if np.isfinite(centre).all() and np.isfinite(radius):
            place = np.round(centre * 16).astype(int).tolist()
            for colour, width in (((0, 0, 0), 2), (MIDDLE, 1)):
                cv2.circle(image, place, round(float(radius) * 16), colour, width, cv2.LINE_AA, 4)


def _draw_scale(image: Image, near: float, far: float) -> None:
    """Draw a colour bar at the lower edge, from near to far in metres, in place."""
    height, width = image.shape[:2]
    if height < 120 or width < 120:
        return
    bar = np.tile(np.linspace(near, far, width - 20), (8, 1))
    image[height - 18 : height - 10, 10 : width - 10] = colour_depth(bar, near, far)
    cv2.rectangle(image, (9, height - 19), (width - 10, height - 10), MIDDLE, 1)
    for text, x in ((f"{near:.1f} m", 10), (f"{far:.1f} m", width - 62)):
        draw_text(image, text, (x, height - 25))


def banner(image: Image, text: str) -> Image:
    """Add a line of text above a picture."""
    strip = np.full((26, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (8, 18), _FONT, 0.48, (30, 30, 30), 1, cv2.LINE_AA)
    return np.ascontiguousarray(np.concatenate([strip, image]))
