"""A small ray-caster: tapered, flattened capsules and ellipsoids, through any lens, with exact depth.

Everything is cast in camera coordinates (metres; x right, y down, z forward). A pixel's ray is (x, y, 1) with (x, y) =
`Camera.unproject(pixel)`, so the parameter along a ray *is* the depth along the camera's z axis, and the lens is
in the picture exactly as `Camera.project` describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.camera import Camera

Floats = NDArray[np.floating[Any]]
Paint = Callable[[Floats, Floats], Floats]
Keep = Callable[[Floats], NDArray[np.bool_]]


@dataclass(frozen=True)
class Local:
    """A frame of reference that travels with a primitive, in which its paint is defined.

    The rows of `axes` (3, 3) are its unit axes. `origin` (3,) is in metres, as is `size`, the length of a local unit.
    """

    axes: Floats
    origin: Floats
    size: float = 1.0

    def __call__(self, points: Floats) -> Floats:
        """Local coordinates (n, 3) of points (n, 3)."""
        return ((points - self.origin) @ (self.axes.T / self.size)).astype(np.float32)


@dataclass(frozen=True)
class Primitive:
    """A tapered capsule (two spheres and the cone that touches both), seen through a linear map.

    Parameters
    ----------
    start, end : (3,) float
        Centres of the two spheres, metres; equal for an ellipsoid.
    radii : (float, float)
        Their radii, in the mapped space.
    warp : (3, 3) float
        The shape is {p : warp @ p is in the tapered capsule from warp @ start to warp @ end}.
    reach : float
        Radius, in metres, of spheres round `start` and `end` whose hull holds the shape.
    colour : (float, float, float)
        Linear RGB in [0, 1].
    local : Local, optional
        Frame of `paint` and `keep`.
    paint : callable, optional
        (local points (n, 3), colours (n, 3)) -> colours (n, 3).
    keep : callable, optional
        local points (n, 3) -> (n,) bool: where the surface exists; elsewhere rays go through.
    """

    start: Floats
    end: Floats
    radii: tuple[float, float]
    warp: Floats
    reach: float
    colour: tuple[float, float, float]
    local: Local | None = None
    paint: Paint | None = field(default=None, compare=False)
    keep: Keep | None = field(default=None, compare=False)

    def moved(self, rotation: Floats, translation: Floats) -> Primitive:
        """The shape after p -> rotation @ p + translation."""
        start, end = (rotation @ point + translation for point in (self.start, self.end))
        local = self.local and Local(
            self.local.axes @ rotation.T, rotation @ self.local.origin + translation, self.local.size
        )
        return replace(self, start=start, end=end, warp=self.warp @ rotation.T, local=local)


def capsule(
    start: Floats,
    end: Floats,
    radii: tuple[float, float],
    colour: tuple[float, float, float],
    flat: tuple[Floats, float] | None = None,
    **more: Any,
) -> Primitive:
    """A capsule from `start` to `end`; `flat` = (axis, factor) scales its thickness along a direction."""
    warp = np.eye(3)
    reach = max(radii)
    if flat is not None:
        axis, factor = flat[0] / np.linalg.norm(flat[0]), flat[1]
        warp = warp + (1 / factor - 1) * np.outer(axis, axis)
        reach *= max(1.0, factor)
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    return Primitive(start, end, radii, warp, reach, colour, **more)


def ellipsoid(
    center: Floats, semi_axes: tuple[float, float, float], axes: Floats, colour: tuple[float, float, float], **more: Any
) -> Primitive:
    """An ellipsoid with `semi_axes` (metres) along the rows of `axes`."""
    center = np.asarray(center, np.float64)
    return Primitive(center, center, (1.0, 1.0), axes / np.array(semi_axes)[:, None], max(semi_axes), colour, **more)


@dataclass(frozen=True)
class Rays:
    """Rays of a lattice of image positions: row r and column c look at pixel (c + offset, r + offset).

    `plane` (2, H, W) has x and y on the plane z = 1. `offset` is 0 for pixel centres, and -0.5 for pixel corners, of
    which there is one more along each axis.
    """

    plane: NDArray[np.float32]
    offset: float

    @classmethod
    def of(cls, camera: Camera, corners: bool = False) -> Rays:
        """Rays through all pixel centres, or all pixel corners, of a camera."""
        extra, offset = (1, -0.5) if corners else (0, 0.0)
        rows, columns = np.mgrid[: camera.height + extra, : camera.width + extra]
        pixels = np.stack([columns, rows], -1) + offset
        # With Human3.6M's lenses each iteration takes away nine tenths of what is left: 1e-7 px after 8.
        plane = camera.unproject(pixels, iterations=8)
        return cls(np.ascontiguousarray(plane.transpose(2, 0, 1), np.float32), offset)


@dataclass(frozen=True)
class Hits:
    """First surface that the rays of a window meet.

    Parameters
    ----------
    depth : (h, w) float32
        z in metres; infinite where nothing is met.
    normals : (h, w, 3) float32
        Unit normals in camera coordinates; 0 where nothing is met.
    colours : (h, w, 3) float32
        Linear RGB; 0 where nothing is met.
    points : (h, w, 3) float32
        Camera coordinates; 0 where nothing is met.
    """

    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    colours: NDArray[np.float32]
    points: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Return where a surface is met."""
        return np.isfinite(self.depth)


Window = tuple[int, int, int, int]


def windows_of(primitives: Sequence[Primitive], camera: Camera, margin: float = 2.0) -> list[Window]:
    """Pixels (x0, y0, x1, y1), end excluded, that hold each primitive in camera coordinates, clipped to the image."""
    centers = np.array([[p.start, p.end] for p in primitives]).reshape(-1, 2, 3)
    reach = np.array([p.reach for p in primitives])[:, None]
    near = np.maximum(centers[..., 2] - reach, 1e-2)
    centers[..., 2] = np.maximum(centers[..., 2], 1e-2)
    pixels = camera.project(centers)
    # 1.1: a sphere beside the axis is seen as an ellipse, longer than wide.
    radius = (1.1 * max(camera.focal) * reach / near + margin)[..., None]
    size = np.array([camera.width, camera.height])
    low = np.floor((pixels - radius).min(1)).clip(0, size).astype(int)
    high = (np.ceil((pixels + radius).max(1)) + 1).clip(0, size).astype(int)
    return [(x0, y0, x1, y1) for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist(), strict=True)]


def union(windows: Iterable[Window]) -> Window:
    """The smallest window that holds all windows that aren't empty."""
    full = [w for w in windows if w[2] > w[0] and w[3] > w[1]]
    if not full:
        return 0, 0, 0, 0
    left, top, right, bottom = zip(*full, strict=True)
    return min(left), min(top), max(right), max(bottom)


def cast(placed: Iterable[tuple[Primitive, Window]], rays: Rays, window: Window) -> Hits:
    """Cast the rays of a window of pixels at primitives in front of the camera, in its coordinates.

    With the rays of corners the result has one more row and column than the window.
    """
    extra = 1 if rays.offset else 0
    x0, y0, x1, y1 = window[0], window[1], window[2] + extra, window[3] + extra
    plane = rays.plane[:, y0:y1, x0:x1]
    shape = plane.shape[1:]
    depth = np.full(shape, np.inf, np.float32)
    normals = np.zeros((*shape, 3), np.float32)
    colours = np.zeros((*shape, 3), np.float32)
    for primitive, (left, top, right, bottom) in placed:
        part = np.s_[max(top - y0, 0) : max(bottom + extra - y0, 0), max(left - x0, 0) : max(right + extra - x0, 0)]
        x, y = plane[0][part], plane[1][part]
        if x.size == 0:
            continue
        z, axial = intersect(primitive, x, y)
        rows, columns = np.nonzero(z < depth[part])
        z, axial = z[rows, columns], axial[rows, columns]
        points = np.stack([x[rows, columns] * z, y[rows, columns] * z, z], -1)
        if primitive.keep is not None and primitive.local is not None:
            kept = primitive.keep(primitive.local(points))
            rows, columns, z, axial, points = rows[kept], columns[kept], z[kept], axial[kept], points[kept]
        colour = np.broadcast_to(np.asarray(primitive.colour, np.float32), points.shape)
        if primitive.paint is not None and primitive.local is not None:
            colour = primitive.paint(primitive.local(points), colour.copy())
        depth[part][rows, columns] = z
        normals[part][rows, columns] = _normals(primitive, points, axial)
        colours[part][rows, columns] = colour
    seen = np.where(np.isfinite(depth), depth, np.float32(0))
    points = np.stack([plane[0] * seen, plane[1] * seen, seen], -1)
    return Hits(depth, normals, colours, points)


def intersect(
    primitive: Primitive, x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """First hits of rays (x, y, 1), x and y (h, w), from the camera with a primitive in its coordinates.

    The quadratics are Inigo Quilez' for a rounded cone (iquilezles.org/articles/intersectors), for rays of any
    length. Rays start beside the primitive, not at the camera: at 5 m a discriminant in float32 would otherwise lose
    a finger.

    Returns
    -------
    depth : (h, w) float32
        z of the hit; infinite where there is none.
    axial : (h, w) float32
        Where along the axis, 0 to 1, the sphere is that touches the surface there.
    """
    a = primitive.warp.astype(np.float32)
    d = [a[i, 0] * x + a[i, 1] * y + a[i, 2] for i in range(3)]
    start = primitive.warp @ primitive.start
    axis = primitive.warp @ (primitive.end - primitive.start)
    ra, rb = primitive.radii
    middle = (start + axis / 2).astype(np.float32)
    dd = _dot(d, d)
    shift = _dot(middle, d) / dd
    o = [shift * d[i] - np.float32(start[i]) for i in range(3)]
    do, oo = _dot(d, o), _dot(o, o)
    length2 = float(axis @ axis)
    rr = ra - rb
    slant2 = length2 - rr * rr
    if slant2 <= 1e-12:  # one sphere holds the other
        first = ra >= rb
        near = o if first else [o[i] - np.float32(axis[i]) for i in range(3)]
        t = _sphere(dd, _dot(d, near), _dot(near, near), max(ra, rb))
        return shift + t, np.full_like(t, 0.0 if first else 1.0)
    axis32 = axis.astype(np.float32)
    ad, ao = _dot(axis32, d), _dot(axis32, o)
    k2 = slant2 * dd - ad * ad
    k1 = slant2 * do - ao * ad + (rr * ra) * ad
    k0 = slant2 * oo - ao * ao + (2 * rr * ra) * ao - length2 * ra * ra
    h = k1 * k1 - k0 * k2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (-np.sqrt(np.maximum(h, 0)) - k1) / k2
        along = ao - ra * rr + t * ad
        body = (h >= 0) & (along > 0) & (along < slant2)
    t_start = _sphere(dd, do, oo, ra)
    t_end = _sphere(dd, do - ad, oo - 2 * ao + np.float32(length2), rb)
    axial = np.where(body, along / np.float32(slant2), (t_end < t_start).astype(np.float32))
    return shift + np.where(body, t, np.minimum(t_start, t_end)), axial


def _sphere(dd: Floats, do: Floats, oo: Floats, radius: float) -> NDArray[np.float32]:
    h = do * do - dd * (oo - np.float32(radius * radius))
    return np.where(h > 0, (-do - np.sqrt(np.maximum(h, 0))) / dd, np.float32(np.inf))


def _dot(a: Any, b: Any) -> Any:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _normals(primitive: Primitive, points: NDArray[np.float32], axial: NDArray[np.float32]) -> NDArray[np.float32]:
    inner = primitive.start + axial[:, None] * (primitive.end - primitive.start)
    n = (points - inner) @ (primitive.warp.T @ primitive.warp)
    n /= np.linalg.norm(n, axis=1, keepdims=True) + 1e-12
    return n.astype(np.float32)
