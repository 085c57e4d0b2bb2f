"""Overlay pictures: skeletons, boxes and depth drawn on a frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from etl.errors import ConfigError, XycdError
from schemas.skeletons import H36M_17, Skeleton

Image = NDArray[np.uint8]
# Left orange, right blue, middle white: apart for colour-blind eyes too.
LEFT, RIGHT, MIDDLE, TRUTH = (245, 160, 30), (50, 130, 240), (240, 240, 240), (70, 210, 90)


def draw_skeleton(
    image: Image, joints: NDArray[np.floating], skeleton: Skeleton = H36M_17, *, truth: bool = False, width: int = 3
) -> None:
    """Draw joints (17, 2) px onto an RGB image, in place; joints that aren't finite are left out.

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


def draw_depths(
    image: Image, joints: NDArray[np.floating], depth: NDArray[np.floating], radius: NDArray[np.floating] | None = None
) -> None:
    """Write the depth (J,) in metres beside joints (J, 2) px, and the circle of its neighbourhood, in place."""
    for joint, (xy, metres) in enumerate(zip(joints, depth, strict=True)):
        if not (np.isfinite(xy).all() and np.isfinite(metres)):
            continue
        centre = np.round(xy).astype(int).tolist()
        if radius is not None and np.isfinite(radius[joint]):
            cv2.circle(image, centre, round(float(radius[joint])), MIDDLE, 1, cv2.LINE_AA)
        place = (centre[0] + 8, centre[1] - 6)
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(image, f"{metres:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)


def colour_depth(depth: NDArray[np.floating], near: float, far: float) -> Image:
    """Depth map (H, W) m to RGB, near is warm, far is dark; black where there is no value."""
    scaled = np.nan_to_num((far - depth) / max(far - near, 1e-6), nan=0.0).clip(0, 1)
    picture = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.where(np.isfinite(depth)[..., None], picture, 0).astype(np.uint8)


def side_by_side(images: list[Image], height: int, gap: int = 6) -> Image:
    """Images of any size in one row, each `height` px high."""
    scaled = [
        cv2.resize(i, (round(i.shape[1] * height / i.shape[0]), height), interpolation=cv2.INTER_AREA) for i in images
    ]
    space = np.full((height, gap, 3), 255, np.uint8)
    row = [part for image in scaled for part in (image, space)]
    return np.ascontiguousarray(np.concatenate(row[:-1], axis=1), np.uint8)


def picture_target(path: Path) -> Path:
    """`path`, if a picture can have that name; to be asked before the work.

    Raises
    ------
    ConfigError
        When its suffix is another.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError("A picture is written as .png or .jpg.", repr(path.name), "Give such a name to --to.")
    return path


def save(image: Image, path: Path) -> None:
    """Write an RGB image as PNG or JPEG, by the suffix.

    Raises
    ------
    XycdError
        When the disk or the suffix refuses.
    """
    picture_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise XycdError("A picture is written to a writable folder.", str(path), "Give another name.")
