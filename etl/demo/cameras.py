"""Cameras of miniatures: lenses of the releases, scaled, and put into the room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.camera import Camera

Floats = NDArray[np.floating[Any]]


def looking(origin: Sequence[float] | Floats, target: Sequence[float], lean: float) -> Floats:
    """World-to-camera rotation (3, 3) of a camera at `origin` that looks at `target`, upright but for `lean` rad.

    Rows are the camera's axes in the world, whose z is up: right, down, forward.
    """
    forward = np.subtract(target, origin)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = math.cos(lean), math.sin(lean)
    return np.stack([c * right + s * down, c * down - s * right, forward])


def placed(lens: Camera, origin: Sequence[float], target: Sequence[float], lean: float) -> Camera:
    """`lens` at `origin`, looking at `target` (world metres); see `looking`."""
    rotation = looking(origin, target, lean)
    return posed(lens, rotation, -rotation @ np.asarray(origin))


def posed(lens: Camera, rotation: Floats, translation: Floats) -> Camera:
    """`lens` with the pose X_c = rotation X_w + translation, metres."""
    a, b, c = (tuple(row) for row in rotation.tolist())
    x, y, z = translation.tolist()
    return replace(lens, rotation=(a, b, c), translation=(x, y, z))


def scaled(lens: Camera, scale: float) -> Camera:
    """`lens` for images scaled about the outer corner of the first pixel; sizes are even, as video needs."""
    (fx, fy), (cx, cy) = lens.focal, lens.center
    return replace(
        lens,
        width=2 * round(lens.width * scale / 2),
        height=2 * round(lens.height * scale / 2),
        focal=(fx * scale, fy * scale),
        center=((cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5),
    )


def origin_of(camera: Camera) -> Floats:
    """Return the position of the camera in the world (3,), metres."""
    return np.asarray(-np.asarray(camera.rotation).T @ np.asarray(camera.translation))
