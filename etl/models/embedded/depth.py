"""Metric depth from BlazePose's world landmarks: the body's distance, painted over the person's mask.

World landmarks are metres from the middle of the hips. The translation that projects them onto the image's
landmarks, under the camera, makes them absolute. That gives each joint a depth, and each pixel of the mask
the depth of the bone that it shows. One image doesn't tell how tall a person is: the networks assume about
1.73 m, so taller people come out nearer and shorter ones farther, in proportion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from etl.models import geometry
from etl.models.embedded.decode import TO_COCO
from schemas.skeletons import COCO_TO_H36M

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

# Landmarks that place the body: shoulders, elbows, wrists, hips, knees, ankles. Face, hands and feet are
# worse in the world than in the image (rendered figures at 4.5-6 m: mean root error 0.16 m, 0.20 with all).
PLACING: Final = (11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)

# Virtual points after the 33 landmarks: middle of the shoulders, of the hips, of the ears.
_MIDDLES: Final = np.array([(11, 12), (23, 24), (7, 8)])

# Bones as (point, point, radius in metres): rough capsules of the body.
BONES: Final[tuple[tuple[int, int, float], ...]] = (
    (33, 34, 0.13), (11, 23, 0.08), (12, 24, 0.08), (11, 12, 0.06), (23, 24, 0.09),
    (33, 35, 0.06), (35, 0, 0.09),
    (11, 13, 0.05), (13, 15, 0.04), (15, 19, 0.035), (12, 14, 0.05), (14, 16, 0.04), (16, 20, 0.035),
    (23, 25, 0.08), (25, 27, 0.055), (27, 31, 0.04), (27, 29, 0.04),
    (24, 26, 0.08), (26, 28, 0.055), (28, 32, 0.04), (28, 30, 0.04),
)  # fmt: skip

_FIRST: Final = np.array([first for first, _, _ in BONES])
_SECOND: Final = np.array([second for _, second, _ in BONES])
_RADIUS: Final = np.array([radius for _, _, radius in BONES])
_RUN: Final = 1024  # pixels painted at a time
_ROW: Final = 256  # of single pixels that are looked up together
NOBODY: Final = -20.0  # logit of pixels without a person

NEAREST_M: Final = 0.1  # nearer bodies are errors

# Landmarks (17, 4) whose mean is each H36M joint; where there are fewer than four, they are repeated.
_SOURCES: Final = np.array([[TO_COCO[i] for i in (sources * 4)[:4]] for sources in COCO_TO_H36M])


@dataclass(frozen=True)
class Body:
    """Mask and depth of one person.

    Parameters
    ----------
    mask : (h, w) float32
        Logits of the person's pixels, in the crop in which they were seen.
    matrix : (3, 3) float64
        From image to crop.
    points : (33, 2) float64
        Landmarks, px of the image.
    depths : (33,) float64
        Their absolute depths, metres.
    focal : float
        Of the camera, px.
    """

    mask: Floats32
    matrix: Floats
    points: Floats
    depths: Floats
    focal: float

    def at(self, xs: Floats32, ys: Floats32) -> Floats32:
        """Depth (n, m), metres, at pixels (n, m) of the image; NaN where the person isn't."""
        (a, b, x), (c, d, y) = self.matrix[:2].astype(np.float32)
        u, v = a * xs + b * ys + x, c * xs + d * ys + y
        # The edge of the mask is smooth in the image; depths are never mixed.
        edge = cv2.remap(self.mask, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=NOBODY)
        height, width = self.mask.shape
        seen = (edge > 0) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        place = np.rint(v[seen]).astype(np.intp) * width + np.rint(u[seen]).astype(np.intp)
        # Pixels of the crop, each once, and back.
        wanted = np.zeros(height * width, bool)
        wanted[place] = True
        (pixels,) = np.nonzero(wanted)
        crop_scale = math.sqrt(abs(float(np.linalg.det(self.matrix[:2, :2]))))
        scale = self.focal * crop_scale / max(median(self.depths), NEAREST_M)
        table = np.empty(height * width, np.float32)
        table[pixels] = paint(
            pixels % width, pixels // width, geometry.apply(self.matrix, self.points), self.depths, scale
        )
        found = np.full(u.shape, np.nan, np.float32)
        found[seen] = table[place]
        return found


@dataclass(frozen=True)
class BodyDepth:
    """Depth of the people in one frame, computed only at the requested pixels.

    Where people overlap, the nearer one counts. See `etl.models.base.DepthField`.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    bodies : tuple of Body
        The people.
    joint_depth : (P, 17) float32, optional
        The estimator's own depth of each H36M_17 joint, metres.
    """

    shape: tuple[int, int]
    bodies: tuple[Body, ...]
    joint_depth: Floats32 | None = None

    def windows(self, centers: NDArray[np.integer], radius: int) -> Floats32:
        """See `etl.models.base.DepthField.windows`."""
        side = 2 * radius + 1
        centers = np.asarray(centers)
        found = np.empty((*centers.shape[:-1], side, side), np.float32)
        steps = np.arange(-radius, radius + 1)
        # A person at a time: cv2.remap takes no more than 32,767 rows.
        for person, out in zip(
            centers.reshape(-1, *centers.shape[-2:]), found.reshape(-1, *found.shape[-3:]), strict=True
        ):
            out[:] = self._at(person[:, :1] + steps, person[:, 1:] + steps)
        return found

    def at(self, pixels: NDArray[np.intp]) -> Floats32:
        """See `etl.models.base.DepthField.at`."""
        y, x = np.divmod(pixels, self.shape[1])
        # As a picture, since cv2.remap takes no more than 32,767 rows.
        places = np.zeros((2, -(-len(pixels) // _ROW), _ROW), np.float32)
        places.reshape(2, -1)[:, : len(pixels)] = x, y
        found = np.full(places.shape[1:], np.nan, np.float32)
        for body in self.bodies:
            np.fmin(found, body.at(*places), out=found)
        return found.reshape(-1)[: len(pixels)]

    def to_array(self) -> Floats32:
        """Return the whole map (H, W) float32 in metres, NaN without a person."""
        whole = np.full(self.shape, np.nan, np.float32)
        for body in self.bodies:
            box = mask_box(body.mask > 0, geometry.invert(body.matrix))
            if box is None:
                continue
            low = np.floor(box[:2]).astype(int).clip(0, self.shape[::-1])
            high = np.ceil(box[2:]).astype(int).clip(-1, np.array(self.shape[::-1]) - 1) + 1
            part = whole[low[1] : high[1], low[0] : high[0]]
            ys, xs = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
            if part.size:
                np.fmin(part, body.at(xs, ys), out=part)
        return whole

    def _at(self, columns: NDArray[np.integer], rows: NDArray[np.integer]) -> Floats32:
        """Depth (n, h, w) of the windows of columns (n, w) and rows (n, h)."""
        shape = (len(rows), rows.shape[1], columns.shape[1])
        xs = np.broadcast_to(columns[:, None].astype(np.float32), shape).reshape(-1, shape[2])
        ys = np.broadcast_to(rows[..., None].astype(np.float32), shape).reshape(-1, shape[2])
        found = np.full(xs.shape, np.nan, np.float32)
        for body in self.bodies:
            np.fmin(found, body.at(xs, ys), out=found)
        values = found.reshape(shape)
        height, width = self.shape
        for places, limit, outside in ((columns, width, values.swapaxes(1, 2)), (rows, height, values)):
            if places.min(initial=0) < 0 or places.max(initial=0) >= limit:
                outside[(places < 0) | (places >= limit)] = np.nan
        return values


def solve_translation(plane: Floats, world: Floats, weights: Floats, rounds: int = 3) -> Floats:
    """Solve for the translation that projects a body onto its landmarks in the image.

    Each landmark gives x + t_x = u (z + t_z) and y + t_y = v (z + t_z), linear in t. Solved by least squares
    with Huber's weights, so that a single wrong limb doesn't move the body.

    Parameters
    ----------
    plane : (N, 2) float
        The landmarks' undistorted pixels on the plane z = 1: (u, v).
    world : (N, 3) float
        Metres, axes of the camera, any origin.
    weights : (N,) float
        Not negative; at least two above 0.
    rounds : int
        How often the weights are updated.

    Returns
    -------
    (3,) float64
        Metres; absolute camera coordinates are ``world + translation``.
    """
    goal = plane * world[:, 2:] - world[:, :2]
    u, v = plane.T
    trust: Floats = np.ones(len(plane))
    translation = np.zeros(3)
    for _ in range(rounds + 1):
        # The normal equations: three unknowns, and rows that are ones but for -u and -v.
        w = weights * trust
        wu, wv, total = w @ u, w @ v, w.sum()
        left = np.array([[total, 0, -wu], [0, total, -wv], [-wu, -wv, w @ (u * u + v * v)]])
        sums = w @ goal
        right = np.array([sums[0], sums[1], -(w @ (u * goal[:, 0] + v * goal[:, 1]))])
        translation = np.linalg.solve(left, right)
        misses = np.hypot(*(translation[:2] - plane * translation[2] - goal).T)
        limit = max(1.5 * median(misses), 1e-9)
        trust = limit / np.maximum(misses, limit)
    return translation


def median(values: Floats) -> float:
    """Compute the median; np.median takes three times as long for few values."""
    ranked = np.sort(values)
    return float(ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2


def from_line_of_sight(world: Floats, ray: Floats) -> Floats:
    """Rotate world landmarks from the network's axes to the axes of the camera.

    The network assumes that the camera looks at the middle of each crop, so its z axis is the line of sight to
    the body. Rotating it onto the ray through the hips halves the error of people near the edge of the image
    (17 degrees off the axis, rendered: 5.4 px instead of 10.0; root depth 0.10 m instead of 0.14 m).

    Parameters
    ----------
    world : (N, 3) float
        Metres from the hips; z along the line of sight, x as the image's.
    ray : (2,) float
        The line of sight on the plane z = 1.

    Returns
    -------
    (N, 3) float64
        The same points after the smallest rotation that takes the z axis onto the ray.
    """
    x, y, z = np.array([ray[0], ray[1], 1.0]) / np.linalg.norm([ray[0], ray[1], 1.0])
    # Rodrigues' formula with the axis (-y, x, 0).
    turn = np.array(
        [[1 - x * x / (1 + z), -x * y / (1 + z), x], [-x * y / (1 + z), 1 - y * y / (1 + z), y], [-x, -y, z]]
    )
    return np.asarray(world @ turn.T, np.float64)


def joint_depths(depths: Floats) -> Floats:
    """Return the depths (17,) of the H36M joints, each the mean of its landmarks' depths (33,)."""
    return np.asarray(depths[_SOURCES].mean(axis=1))


def own_component(mask: Floats32, points: Floats) -> NDArray[np.bool_]:
    """Select pixels (h, w) of a mask (logits) connected with the body, given its landmarks (33, 2), px of the mask."""
    positive = mask > 0
    found, labels = cv2.connectedComponents(positive.view(np.uint8), ltype=cv2.CV_16U)
    if found <= 2:
        return np.asarray(positive)
    joints = _with_middles(points)
    ends = joints[[(a, b) for a, b, _ in BONES]]
    steps = np.linspace(0, 1, 5)[:, None, None]
    along = np.rint(ends[:, 0] * (1 - steps) + ends[:, 1] * steps).astype(int).reshape(-1, 2)
    inside = ((along >= 0) & (along < np.array(mask.shape[::-1]))).all(1)
    touched = labels[along[inside, 1], along[inside, 0]]
    own = np.zeros(found, bool)
    own[touched] = True
    own[0] = False
    return np.asarray(own[labels])


def paint(
    xs: NDArray[np.integer], ys: NDArray[np.integer], points: Floats, depths: Floats, pixels_per_metre: float
) -> Floats32:
    """Compute the depth of pixels of a person.

    A pixel shows the nearest of the capsules (`BONES`) that cover it. A pixel that none covers (loose clothes,
    hair) has the depth of the capsule whose rim is closest. The depth is that of the bone's axis, as for
    joints, not of the skin.

    Parameters
    ----------
    xs, ys : (N,) int
        Pixels of the crop.
    points : (33, 2) float
        Landmarks, px of the crop.
    depths : (33,) float
        Their depths, metres.
    pixels_per_metre : float
        Of the crop, at the person's distance.

    Returns
    -------
    (N,) float32
        Metres.
    """
    joints, z = _with_middles(points), _with_middles(depths)
    start, way, radius = joints[_FIRST], joints[_SECOND] - joints[_FIRST], _RADIUS * pixels_per_metre
    # Single precision: half the time, and far finer than a pixel.
    bones = np.stack((*start.T, *way.T, z[_FIRST], z[_SECOND] - z[_FIRST], radius)).astype(np.float32)[..., None]
    x, y, out = xs.astype(np.float32), ys.astype(np.float32), np.empty(len(xs), np.float32)
    # In runs of pixels whose intermediate values stay in the processor's cache.
    for i in range(0, len(out), _RUN):
        out[i : i + _RUN] = _shown(x[i : i + _RUN], y[i : i + _RUN], bones)
    return out


def _shown(xs: Floats32, ys: Floats32, bones: Floats32) -> Floats32:
    """Depth (N,) that pixels (N,) of the crop show of bones (7, B, 1): x, y, direction, depth, its rise, radius."""
    x, y, dx, dy, z, rise, radius = bones
    right, down = xs - x, ys - y
    length2 = np.maximum(dx * dx + dy * dy, np.float32(1e-6))
    along = right * (dx / length2)
    along += down * (dy / length2)
    np.minimum(along, 1, out=along)
    np.maximum(along, 0, out=along)
    right -= along * dx
    right *= right
    down -= along * dy
    down *= down
    right += down  # the squared distance
    along *= rise
    along += z
    nearest = np.where(right <= radius * radius, along, np.float32(np.inf)).min(0)
    (bare,) = np.nonzero(np.isinf(nearest))
    if len(bare):
        rim = np.sqrt(right[:, bare]) - radius
        nearest[bare] = along[rim.argmin(0), bare]
    return np.asarray(nearest)


def _with_middles(values: Floats) -> Floats:
    """Landmarks' values (33, ...) and those of the virtual points after them (36, ...)."""
    return np.concatenate([values, values[_MIDDLES].mean(axis=1)])


def mask_box(inside: NDArray[np.bool_], back: Floats) -> Floats | None:
    """Tight box x1, y1, x2, y2 (4,) px of the image around the crop's pixels `inside`; None where there are none.

    `back` is the map from crop to image.
    """
    (rows,) = np.nonzero(inside.any(axis=1))
    if not len(rows):
        return None
    # An affine map takes the extremes of a row's pixels to extremes, so its first and last pixel stand for all.
    kept = inside[rows]
    first, last = kept.argmax(axis=1), inside.shape[1] - 1 - kept[:, ::-1].argmax(axis=1)
    ends = np.stack([np.concatenate([first, last]), np.concatenate([rows, rows])], axis=1)
    places = geometry.apply(back, ends)
    # Half a crop pixel around their centres.
    half = 0.5 * np.abs(back[:2, :2]).sum(axis=1)
    return np.concatenate([places.min(0) - half, places.max(0) + half])
