"""One frame with everything drawn on it: boxes, both skeletons, neighbourhood discs, depths and the depth map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from etl.report.drawing import MIDDLE, Image, colour_depth, draw_box, draw_depths, draw_skeleton, side_by_side
from schemas.skeletons import COCO_17, H36M_17

Floats = NDArray[np.floating[Any]]

LABELLED: Final = (0, 3, 6, 10, 13, 16)  # pelvis, feet, head and wrists: the others would cover each other
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Person:
    """One person as found; pixels of the image that it is drawn on.

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
        COCO_17, px: what the detector itself found.
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
    """A frame and what was found in it.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    people : tuple of Person
        Who was found.
    depth_map : (H, W) float32, optional
        Metres; NaN where it has no value.
    """

    image: Image
    people: tuple[Person, ...] = ()
    depth_map: NDArray[np.float32] | None = None


def mapped(view: View, image: Image, depth_map: NDArray[np.float32] | None, factor: float, shift: Floats) -> View:
    """The view on another image, whose pixel of p is factor · p + shift."""

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
    """The part of the frame around its people; the whole frame where there is nobody.

    Parameters
    ----------
    view : View
        The frame.
    margin : float
        Around the joints and boxes, as a fraction of their longer side.
    aspect : float
        Width for a height of 1, where the frame is large enough.
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
    """The view with an image `height` px high; pixel centres stay pixel centres."""
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
        Draw the neighbourhoods with their real radii. Depths of some joints, in metres, are drawn in any case.
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
    """The depth map in colours, with the discs from which depth was taken and a scale; None without a map."""
    if view.depth_map is None:
        return None
    told = view.depth_map[np.isfinite(view.depth_map)]
    near, far = (float(v) for v in np.quantile(told, (0.01, 0.99))) if told.size else (0.0, 1.0)
    image = np.ascontiguousarray(colour_depth(view.depth_map, near, far))
    for person in view.people:
        _draw_discs(image, person)
    _draw_scale(image, near, far)
    return image


def panels(view: View, height: int, *, coco: bool = False) -> Image:
    """The view, the COCO skeleton if asked for, and the depth map if there is one, side by side."""
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
    """The picture with a few words in its upper left corner, where they fit."""
    if cv2.getTextSize(text, _FONT, 0.6, 1)[0][0] + 24 <= image.shape[1]:
        for colour, thick in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            cv2.putText(image, text, (12, 28), _FONT, 0.6, colour, thick, cv2.LINE_AA)
    return image


def _draw_discs(image: Image, person: Person) -> None:
    for centre, radius in zip(person.joints, person.radius, strict=True):
        if np.isfinite(centre).all() and np.isfinite(radius):
            place = np.round(centre * 16).astype(int).tolist()
            for colour, width in (((0, 0, 0), 2), (MIDDLE, 1)):
                cv2.circle(image, place, round(float(radius) * 16), colour, width, cv2.LINE_AA, 4)


def _draw_scale(image: Image, near: float, far: float) -> None:
    """A colour bar at the lower edge, from near to far in metres."""
    height, width = image.shape[:2]
    if height < 120 or width < 120:
        return
    bar = np.tile(np.linspace(near, far, width - 20), (8, 1))
    image[height - 18 : height - 10, 10 : width - 10] = colour_depth(bar, near, far)
    cv2.rectangle(image, (9, height - 19), (width - 10, height - 10), MIDDLE, 1)
    for text, x in ((f"{near:.1f} m", 10), (f"{far:.1f} m", width - 62)):
        for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(image, text, (x, height - 25), _FONT, 0.42, colour, thick, cv2.LINE_AA)


def banner(image: Image, text: str) -> Image:
    """The picture with a line of text above it."""
    strip = np.full((26, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (8, 18), _FONT, 0.48, (30, 30, 30), 1, cv2.LINE_AA)
    return np.ascontiguousarray(np.concatenate([strip, image]))
