"""The room behind the figure: walls, carpet, wooden edge, a board and a radiator."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

HALF_WIDTH: Final = 5.7  # metres, of the square room round the origin
HEIGHT: Final = 3.0
_FLOOR, _CEILING, _EAST, _WEST, _NORTH, _SOUTH = range(6)


class Noise:
    """Smooth value noise with period 4 m / scale, always the same."""

    def __init__(self, seed: int = 0, size: int = 512) -> None:
        rng = np.random.default_rng(seed)
        octaves = [rng.random((n, n)).astype(np.float32) for n in (8, 32, 128, size)]
        weights = (0.4, 0.3, 0.2, 0.1)
        self.size = size
        self.texture: Floats = np.zeros((size, size), np.float32)
        for weight, octave in zip(weights, octaves, strict=True):
            self.texture += weight * cv2.resize(octave, (size, size), interpolation=cv2.INTER_CUBIC)
        self.texture -= 0.5

    def __call__(self, u: Floats, v: Floats, scale: float = 1.0) -> Floats:
        """Values about 0, within about ±0.5, at places (u, v) in metres."""
        columns = (u * (128 * scale)).astype(np.int32) % self.size
        rows = (v * (128 * scale)).astype(np.int32) % self.size
        return self.texture[rows, columns]


def room(origin: Floats, directions: Floats, noise: Noise) -> tuple[Floats, Floats]:
    """Cast rays at the room from `origin` (3,), world metres, in `directions` (n, 3) of any length.

    Returns
    -------
    colours : (n, 3) float32
        Linear RGB.
    t : (n,) float32
        Place along the ray, in lengths of its direction.
    """
    d = directions
    with np.errstate(divide="ignore", invalid="ignore"):
        to_z = [(height - origin[2]) / d[:, 2] for height in (0.0, HEIGHT)]
        to_x, to_y = ([(wall - origin[i]) / d[:, i] for wall in (HALF_WIDTH, -HALF_WIDTH)] for i in (0, 1))
    distances = np.stack([*to_z, *to_x, *to_y]).astype(np.float32)
    distances[~(distances > 0)] = np.inf
    surface, t = distances.argmin(0), distances.min(0)
    points = (origin + t[:, None] * d).astype(np.float32)
    colours = np.empty_like(points)
    on = surface == _FLOOR
    colours[on] = _floor(points[on], noise)
    colours[surface == _CEILING] = (0.62, 0.58, 0.55)
    for wall in (_EAST, _WEST, _NORTH, _SOUTH):
        on = surface == wall
        across = points[on][:, 1] if wall in (_EAST, _WEST) else points[on][:, 0]
        colours[on] = _wall(wall, across, points[on][:, 2], noise)
    return colours, t


def _floor(points: Floats, noise: Noise) -> Floats:
    x, y = points[:, 0], points[:, 1]
    grain = noise(x, y, 2.0)[:, None]
    colours = np.array((0.36, 0.13, 0.13), np.float32) * (1 + 0.25 * grain)
    wood = np.maximum(np.abs(x), np.abs(y)) > 3.3
    board = ((np.floor(x * 8).astype(np.int32) * 7919) % 13 / 13)[:, None]
    colours[wood] = (np.array((0.50, 0.35, 0.23)) * (1 + 0.15 * grain + 0.25 * (board - 0.5)))[wood]
    return colours * (0.55 + 0.5 * np.exp(-(x * x + y * y) / 18))[:, None]


def _wall(wall: int, across: Floats, z: Floats, noise: Noise) -> Floats:
    bright = 0.96 if wall in (_EAST, _WEST) else 1.04
    colours = np.array((0.80, 0.76, 0.73), np.float32) * bright * (1 + 0.05 * noise(across, z, 0.7))[:, None]
    lamps = 0.62 + 0.45 * np.exp(-((across % 2.6 - 1.3) ** 2 / 0.7 + (z - 2.3) ** 2 / 0.9))
    colours = colours * lamps[:, None] + 0.08
    colours[z < 0.12] *= 0.55
    from_board = np.abs(across - 1.2)
    board = (from_board < 1.1) & (z > 0.5) & (z < 1.5) & (wall in (_WEST, _NORTH))
    colours[board] = (0.74, 0.72, 0.71)
    colours[board & ((np.abs(from_board - 1.1) < 0.03) | (np.abs(z - 1.5) < 0.04))] = (0.25, 0.24, 0.24)
    ribs = (np.abs(across + 2.2) < 0.7) & (z > 0.25) & (z < 0.95) & (wall in (_EAST, _SOUTH))
    shade = 0.75 + 0.25 * (np.sin(across[ribs] * 70) > 0)
    colours[ribs] = np.array((0.78, 0.75, 0.70)) * shade[:, None]
    return colours
