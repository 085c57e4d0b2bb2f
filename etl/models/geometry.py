"""Affine maps between the image and the inputs of networks, and the warp that applies them.

Frame of reference: pixels are 0-based with the centre of the top-left pixel at (0, 0), so an image of
width W covers [-0.5, W - 0.5]. Every map is a (3, 3) float64 matrix that takes full-image pixels to
input pixels; maps compose with ``@`` and go back with `invert`. Sizes are (width, height), as cv2's.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Size = tuple[int, int]
Pixel = TypeVar("Pixel", np.uint8, np.float32)

# Rows and columns kept around the part of the image that a warp reads, in pixels of its reduced grid.
_MARGIN: Final = 2


def translation_matrix(x: float, y: float) -> Floats:
    """Map that adds (x, y) px."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def resize_matrix(image_size: Size, output_size: Size) -> Floats:
    """Map of a resize of the whole image, in the half-pixel convention.

    The same as cv2.resize, PIL and torch's ``interpolate(align_corners=False)``: the edges of the images
    coincide, not the centres of their corner pixels.

    Parameters
    ----------
    image_size, output_size : (int, int)
        Width and height in px.
    """
    sx, sy = output_size[0] / image_size[0], output_size[1] / image_size[1]
    return np.array([[sx, 0.0, (sx - 1) / 2], [0.0, sy, (sy - 1) / 2], [0.0, 0.0, 1.0]])


def letterbox_size(image_size: Size, output_size: Size) -> Size:
    """Size in whole px of the image fitted into `output_size` with its aspect kept (mmcv's rounding)."""
    scale = min(output_size[0] / image_size[0], output_size[1] / image_size[1])
    return max(1, int(image_size[0] * scale + 0.5)), max(1, int(image_size[1] * scale + 0.5))


def crop_matrix(center: ArrayLike, size: ArrayLike, rotation: float, output_size: Size) -> Floats:
    """Map of a rotated rectangular region of the image to the whole of a crop.

    Parameters
    ----------
    center : (2,) float
        Centre of the region, px.
    size : (2,) float
        Width and height of the region along its own axes, px.
    rotation : float
        Radians by which the region is turned, clockwise as seen on the screen: its own x axis points
        along (cos, sin) of the image, whose y points down.
    output_size : (int, int)
        Width and height of the crop in px.
    """
    center, size = np.asarray(center, np.float64), np.asarray(size, np.float64)
    sx, sy = np.asarray(output_size) / size
    c, s = math.cos(rotation), math.sin(rotation)
    linear = np.array([[sx * c, sx * s], [-sy * s, sy * c]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = (np.asarray(output_size) - 1) / 2 - linear @ center
    return matrix


def flip_matrix(width: int) -> Floats:
    """Map that mirrors an image of `width` px left to right."""
    return np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def invert(matrix: Floats) -> Floats:
    """The map back.

    Raises
    ------
    ZeroDivisionError
        When the map takes the plane to a line or a point.
    """
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    det = a * d - b * c
    # In closed form: a fifth of the time of a general inverse, and this is called often.
    return np.array(
        [[d / det, -b / det, (b * y - d * x) / det], [-c / det, a / det, (c * x - a * y) / det], [0.0, 0.0, 1.0]]
    )


def apply(matrix: Floats, points: ArrayLike) -> Floats:
    """Points (..., 2) px through the map, float64."""
    points = np.asarray(points, np.float64)
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def pad_boxes(
    boxes: ArrayLike, padding: float = 1.25, aspect: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Regions around boxes: padded, then grown to an aspect, never shrunk.

    Parameters
    ----------
    boxes : (..., 4) float
        x1, y1, x2, y2 in px.
    padding : float
        Factor on width and height; MMPose's GetBBoxCenterScale uses 1.25.
    aspect : float, optional
        Width / height that the region gets by growing the side that is too short (MMPose's
        TopdownAffine). Without, the padded box keeps its own.

    Returns
    -------
    centers : (..., 2) float64
        px.
    sizes : (..., 2) float64
        Width and height, px.
    """
    boxes = np.asarray(boxes, np.float64)
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    sizes = (boxes[..., 2:] - boxes[..., :2]) * padding
    if aspect is not None:
        width = np.maximum(sizes[..., 0], sizes[..., 1] * aspect)
        sizes = np.stack([width, width / aspect], axis=-1)
    return centers, sizes


def warp(
    image: NDArray[Pixel],
    matrix: Floats,
    size: Size,
    *,
    border: float | Literal["replicate"] = 0.0,
    stride: float = 1.0,
) -> NDArray[Pixel]:
    """Resample an image through `matrix`, averaging where it shrinks, so that small inputs don't alias.

    Downsampling is shared between a mean over whole blocks of the image (as cv2's INTER_AREA), a bilinear
    warp onto a grid finer than the output, and a mean over that grid. Every step is symmetric about the
    pixel's centre, so positions are kept to the sub-pixel: what lies at p in the image lies at
    ``apply(matrix, p)`` in the output. Only the part of the image that the output shows is touched.

    Parameters
    ----------
    image : (H, W) or (H, W, C) uint8 or float32
        Source.
    matrix : (3, 3) float64
        Map from image pixels to output pixels.
    size : (int, int)
        Width and height of the output.
    border : float or "replicate"
        Value of what lies outside the image, or the image's nearest pixel.
    stride : float
        Blocks, below 2, that the bilinear warp may skip along at once. The finer grid takes most of the time, and
        is needed where the warp would stride farther than this only.

    Returns
    -------
    (height, width) or (height, width, C), dtype of `image`
    """
    back = invert(matrix)
    steps = np.linalg.norm(back[:2, :2], axis=0)  # image px an output px, along the output's x and y
    block = max(1, int(steps.min() + 1e-9))
    fine = np.maximum(1, np.ceil(steps / block / stride - 1e-9)).astype(int)
    mode = cv2.BORDER_REPLICATE if border == "replicate" else cv2.BORDER_CONSTANT
    value = (0.0 if border == "replicate" else float(border),) * 4

    x0, y0, x1, y1 = _window(back, size, (image.shape[1], image.shape[0]), _MARGIN * block)
    # Whole blocks, where the image has them.
    x1, y1 = min(x1 + -(x1 - x0) % block, image.shape[1]), min(y1 + -(y1 - y0) % block, image.shape[0])
    part: Any = image[y0:y1, x0:x1]
    for factor in _factors(block):
        right, bottom = -part.shape[1] % factor, -part.shape[0] % factor
        if right or bottom:
            # A block that the image's edge cuts is filled with its nearest pixels: no dark rim.
            part = cv2.copyMakeBorder(part, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        reduced = (part.shape[1] // factor, part.shape[0] // factor)
        part = cv2.resize(part, reduced, interpolation=cv2.INTER_AREA)
    part_to_image = translation_matrix(x0, y0) @ resize_matrix((1, 1), (block, block))
    fine_size = (size[0] * int(fine[0]), size[1] * int(fine[1]))
    part_to_fine = resize_matrix(size, fine_size) @ matrix @ part_to_image
    out = cv2.warpAffine(part, part_to_fine[:2], fine_size, flags=cv2.INTER_LINEAR, borderMode=mode, borderValue=value)
    if fine.max() > 1:
        out = cv2.resize(out, size, interpolation=cv2.INTER_AREA)
    return np.asarray(out, image.dtype)


def _factors(block: int) -> list[int]:
    """Factors of `block`, its twos first, one by one: halving is what OpenCV does fast."""
    twos = (block & -block).bit_length() - 1
    rest = block >> twos
    return [2] * twos + ([rest] if rest > 1 else [])


def _window(back: Floats, size: Size, image_size: Size, margin: int) -> tuple[int, int, int, int]:
    """Part x0, y0, x1, y1 of the image (end excluded, at least one pixel) that an output of `size` shows."""
    right, bottom = size[0] - 0.5, size[1] - 0.5
    corners = apply(back, [(-0.5, -0.5), (right, -0.5), (-0.5, bottom), (right, bottom)])
    low = np.floor(corners.min(axis=0)).astype(int) - margin
    high = np.ceil(corners.max(axis=0)).astype(int) + margin + 1
    limit = np.asarray(image_size)
    low = low.clip(0, limit - 1)
    high = np.maximum(high.clip(0, limit), low + 1)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
