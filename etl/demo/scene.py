"""Pictures of figures in the room before one camera, with the depth of every pixel."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from etl.demo.body import Style, body
from etl.demo.cameras import origin_of
from etl.demo.figure import Pose, Skeleton, skeleton, unit
from etl.demo.raycast import Hits, Rays, Window, cast, union, windows_of
from etl.demo.room import Noise, room
from schemas.camera import Camera

Floats = NDArray[np.floating[Any]]

# Flesh and cloth between a joint and the surface over it, metres, at most: what a joint may lie behind and be visible.
FLESH: Final = {
    "hip": 0.20, "pelvis": 0.20, "spine": 0.20, "thorax": 0.20, "shoulder": 0.12, "neck_base": 0.14, "head": 0.12,
    "knee": 0.10, "foot": 0.09, "ankle": 0.09, "elbow": 0.08, "wrist": 0.07, "nose": 0.05, "eye": 0.04, "ear": 0.05,
}  # fmt: skip
_TONE: Final = 4096


@dataclass(frozen=True)
class Picture:
    """One rendered frame.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    depth : (H, W) float32
        Metres along the camera's z axis at the centre of each pixel; background too.
    people : (H, W) uint8
        Whom the centre of each pixel shows: 1 for the first person, 2 for the second; 0 for the room.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    people: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W): pixels whose centre shows anybody."""
        shown: NDArray[np.bool_] = self.people > 0
        return shown


@dataclass(frozen=True)
class Actor:
    """A person at one moment, placed in the world."""

    pose: Pose
    style: Style

    @property
    def skeleton(self) -> Skeleton:
        """In the body's own frame."""
        return skeleton(self.pose, self.style.height)

    def to_world(self, points: Floats) -> Floats:
        """World coordinates (..., 3) in metres of points in the body's own frame."""
        return points @ self.pose.rotation.T + self.pose.translation


class _Layer:
    """Nearest surface on a lattice of image positions in a window.

    Depth, whose it is (`people`), how much of it covers the background (`cover`): (h, w); `colours`: (h, w, 3).
    """

    def __init__(self, window: Window, extra: int) -> None:
        self.corner = window[:2]
        shape = (window[3] - window[1] + extra, window[2] - window[0] + extra)
        self.depth = np.full(shape, np.inf, np.float32)
        self.people = np.zeros(shape, np.uint8)
        self.cover = np.zeros(shape, np.float32)
        self.colours = np.zeros((*shape, 3), np.float32)

    def put(self, number: int, window: Window, hits: Hits, colours: Floats) -> None:
        """Lay person `number`, who was cast in `window`, over what is farther away."""
        left, top = window[0] - self.corner[0], window[1] - self.corner[1]
        part = np.s_[top : top + hits.depth.shape[0], left : left + hits.depth.shape[1]]
        nearer = hits.depth < self.depth[part]
        self.depth[part][nearer] = hits.depth[nearer]
        self.people[part][nearer] = number
        self.cover[part][nearer] = 1
        self.colours[part][nearer] = colours[nearer]


class Scene:
    """The room before a camera with a pose, inside the room; keeps the rays and the empty room, casts what moves."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.rotation = np.array(camera.rotation)
        self.origin = origin_of(camera)
        self.centers, self.corners = _rays(replace(camera, name="", rotation=None, translation=None))
        self.noise = Noise()
        x, y = self.centers.plane
        directions = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ self.rotation.astype(np.float32)
        colours, depth = room(self.origin, directions, self.noise)
        shape = (camera.height, camera.width)
        places = self.origin + depth[:, None] * directions
        floor = np.where(np.abs(places[:, 2:]) < 1e-3, places[:, :2], np.inf).astype(np.float32)
        self.floor: NDArray[np.float32] = floor.reshape(*shape, 2)
        self.background: Floats = np.asarray(cv2.GaussianBlur(colours.reshape(*shape, 3), (0, 0), 0.6), np.float32)
        self.depth = depth.reshape(shape)
        # One pattern for all frames, as a sensor's fixed noise: the video stays small.
        self.grain = np.random.default_rng(7).normal(0, 0.008, (*shape, 3)).astype(np.float32)
        self.tone = np.round(255 * np.linspace(0, 1, _TONE) ** (1 / 1.35)).astype(np.uint8)
        self.empty = self._develop(self.background, self.grain)

    def render(self, *actors: Actor) -> Picture:
        """The frame that shows `actors`, the nearer before the farther."""
        image, depth = self.empty.copy(), self.depth.copy()
        people = np.zeros(depth.shape, np.uint8)
        if not actors:
            return Picture(image, depth, people)
        feet = np.concatenate([_feet(actor) for actor in actors])
        self._cast_shadows(image, feet)
        frames = [(self.rotation @ a.pose.rotation, self.rotation @ (a.pose.translation - self.origin)) for a in actors]
        bodies = [
            [primitive.moved(*frame) for primitive in body(actor.skeleton, actor.pose, actor.style)]
            for actor, frame in zip(actors, frames, strict=True)
        ]
        windows = [windows_of(primitives, self.camera) for primitives in bodies]
        x0, y0, x1, y1 = window = union(itertools.chain(*windows))
        if x1 <= x0:
            return Picture(image, depth, people)
        at_centers, at_corners = _Layer(window, 0), _Layer(window, 1)
        for i, actor in enumerate(actors):
            lights, own = self._lights(actor.to_world(actor.skeleton.joints["pelvis"])), union(windows[i])
            for rays, layer in ((self.centers, at_centers), (self.corners, at_corners)):
                if own[2] > own[0]:
                    hits = cast(zip(bodies[i], windows[i], strict=True), rays, own)
                    layer.put(i + 1, own, hits, self._shade(hits, lights, frames[i]))
        part = np.s_[y0:y1, x0:x1]
        people[part] = at_centers.people
        depth[part] = np.where(at_centers.people > 0, at_centers.depth, depth[part])
        cover = _quincunx(at_centers.cover, at_corners.cover)[..., None]
        colours = _quincunx(at_centers.colours, at_corners.colours)
        behind = self.background[part] * self._shadow(self.floor[part], feet)[..., None]
        image[part] = self._develop(behind * (1 - cover) + colours, self.grain[part])
        return Picture(image, depth, people)

    def _develop(self, linear: Floats, grain: Floats) -> NDArray[np.uint8]:
        """8 bits through a mild tone curve."""
        return self.tone[((linear + grain) * (_TONE - 1)).clip(0, _TONE - 1).astype(np.int32)]

    def _cast_shadows(self, image: NDArray[np.uint8], feet: Floats) -> None:
        """Darken the floor round the feet, in place."""
        around = feet[:, None, :2] + np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) * 1.1
        corners = np.concatenate([around.reshape(-1, 2), np.zeros((around.size // 2, 1))], axis=1)
        seen = self.camera.world_to_camera(corners)
        if (seen[:, 2] < 0.3).any():
            window: Window = (0, 0, self.camera.width, self.camera.height)
        else:
            pixels = self.camera.project(seen)
            size = np.array([self.camera.width, self.camera.height])
            (x0, y0), (x1, y1) = (p.clip(0, size).astype(int).tolist() for p in (pixels.min(0), pixels.max(0) + 1))
            window = (x0, y0, x1, y1)
        part = np.s_[window[1] : window[3], window[0] : window[2]]
        shadow = self._shadow(self.floor[part], feet)
        image[part] = self._develop(self.background[part] * shadow[..., None], self.grain[part])

    def _shadow(self, floor: NDArray[np.float32], feet: Floats) -> NDArray[np.float32]:
        """Share of light (h, w) that is left on the floor at places (h, w, 2) round each person's feet and pelvis."""
        light = np.ones(floor.shape[:2], np.float32)
        near = np.isfinite(floor[..., 0])
        x, y = floor[near].T
        left = np.ones_like(x)
        spots = itertools.cycle(((0.13, 0.55), (0.13, 0.55), (0.45, 0.35)))
        for place, (radius, strength) in zip(feet.astype(np.float32), spots, strict=False):
            d2 = ((x - place[0]) ** 2 + (y - place[1]) ** 2) / np.float32(2 * radius * radius)
            left *= 1 - strength * np.exp(-d2)
        light[near] = left
        return light

    def _lights(self, target: Floats) -> Floats:
        """Rows (direction, intensity of R, G, B) in camera coordinates: two lamps and one beside the camera."""
        fill = self.origin - target + np.array([0, 0, 1.0])
        lamps = (
            ((0.3, 0.5, 1.0), 0.50, (1.0, 0.97, 0.92)),
            ((-0.6, -0.4, 0.9), 0.40, (1.0, 0.96, 0.92)),
            (fill, 0.28, (1.0, 1.0, 1.0)),
        )
        return np.array(
            [[*(self.rotation @ unit(d)), *(strength * np.array(c))] for d, strength, c in lamps], np.float32
        )

    def _shade(self, hits: Hits, lights: Floats, frame: tuple[Floats, Floats]) -> Floats:
        """Shaded colours (h, w, 3), black where nothing is met; `frame` leads from the body to the camera."""
        mask = hits.mask.astype(np.float32)
        pixels = max(self.camera.focal) / 1145.0  # the softness is the cloth's, not the image's
        # Soft normals round the creases where primitives meet, as cloth and flesh have.
        soft = cv2.GaussianBlur(hits.normals, (0, 0), max(1.2 * pixels, 0.3))
        weight = cv2.GaussianBlur(mask, (0, 0), max(1.2 * pixels, 0.3))
        normals = 0.55 * soft / np.maximum(weight, 1e-3)[..., None] + 0.45 * hits.normals
        normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-6
        up = self.rotation[:, 2].astype(np.float32)
        light = (0.30 + 0.13 * (normals @ up))[..., None] + np.zeros(3, np.float32)
        for lamp in lights:
            light += np.maximum((normals @ lamp[:3] + 0.25) / 1.25, 0)[..., None] * lamp[3:]
        depth = np.where(hits.mask, hits.depth, np.float32(0))
        for radius in (4, 10):  # what lies behind its surroundings is darker
            sigma = max(radius * pixels, 0.3)
            around = _blur(depth, sigma) / np.maximum(_blur(mask, sigma), 1e-3)
            light *= (1 - 0.25 * np.clip((depth - around) / 0.06, 0, 1))[..., None]
        turn, shift = frame
        inside = (hits.points - shift.astype(np.float32)) @ turn.astype(np.float32)
        grain = self.noise(inside[..., 0] + inside[..., 1], inside[..., 2], 3.0)
        colours = hits.colours * (1 + 0.18 * grain)[..., None] * light
        return np.asarray(colours.clip(0, 1) * mask[..., None])


def _feet(actor: Actor) -> Floats:
    """World places (3, 3) round which the floor is darker."""
    joints = actor.skeleton.joints
    return actor.to_world(np.stack([joints[name] for name in ("right_foot", "left_foot", "pelvis")]))


def visible(
    picture: Picture, camera: Camera, points: Floats, names: Sequence[str], person: int = 0
) -> NDArray[np.bool_]:
    """Return which joints (J,) the camera sees: in the image, on the person, and not occluded.

    `points` (J, 3) are the joints called `names`, in camera coordinates, metres; `person` is whose they are, 0 for the
    first.
    """
    pixels = np.round(camera.project(np.asarray(points, np.float64))).astype(int)
    inside: NDArray[np.bool_] = ((pixels >= 0) & (pixels < (camera.width, camera.height))).min(axis=1)
    x, y = np.where(inside[:, None], pixels, 0).T
    flesh = np.array([FLESH.get(name, FLESH.get(name.partition("_")[2], 0.0)) for name in names])
    covered = points[:, 2] - picture.depth[y, x]
    seen: NDArray[np.bool_] = inside & (picture.people[y, x] == person + 1) & (covered < flesh)
    return seen


@functools.lru_cache(maxsize=2)
def _rays(lens: Camera) -> tuple[Rays, Rays]:
    """Rays through centres and corners of a lens's pixels; the last are kept, as all subjects share the cameras."""
    return Rays.of(lens), Rays.of(lens, corners=True)


def _blur(values: Floats, sigma: float) -> Floats:
    """A box blur of about the same spread as a Gaussian of `sigma`, whose cost doesn't grow with it."""
    side = 2 * round(sigma * 1.73) + 1
    return np.asarray(cv2.blur(cv2.blur(values, (side, side)), (side, side)), np.float32)


def _quincunx(centers: Floats, corners: Floats) -> Floats:
    """Half of each pixel's centre and an eighth of each of its corners."""
    total = corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:]
    return np.asarray(centers * 0.5 + total * 0.125)
