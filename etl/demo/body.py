"""The figure's flesh and clothes: primitives round a skeleton, in proportions that pose networks recognise.

What makes networks recognise a figure, in order: tapered limbs, a shaped trunk and head, shoes; skin and clothes
of different colours; hair, which shows front and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etl.demo.figure import Pose, Skeleton, foot_axes, unit
from etl.demo.raycast import Local, Primitive, capsule, ellipsoid

Floats = NDArray[np.floating[Any]]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Style:
    """Appearance of a person.

    Parameters
    ----------
    height : float
        Metres. Networks assume an average person: 1.70 to 1.76 gives the least bias in depth.
    skin, hair, shirt, trousers, shoes, soles : (float, float, float)
        Linear RGB in [0, 1].
    sleeves : float
        Length of the sleeves as a share of the upper arm; above 1: long.
    legs : {"long", "short"}
        Trousers or shorts.
    phase : float
        Where in each motion the person begins, in cycles.
    """

    height: float = 1.74
    skin: Colour = (0.80, 0.58, 0.46)
    hair: Colour = (0.16, 0.10, 0.07)
    shirt: Colour = (0.20, 0.33, 0.60)
    trousers: Colour = (0.16, 0.17, 0.22)
    shoes: Colour = (0.10, 0.09, 0.09)
    soles: Colour = (0.80, 0.80, 0.78)
    sleeves: float = 0.5
    legs: Literal["long", "short"] = "long"
    phase: float = 0.0


_STYLES = (
    Style(height=1.74, phase=0.17),
    Style(height=1.71, shirt=(0.62, 0.20, 0.18), hair=(0.30, 0.18, 0.08), phase=0.27),
    Style(height=1.76, shirt=(0.75, 0.62, 0.22), skin=(0.50, 0.33, 0.24), hair=(0.05, 0.04, 0.04), phase=0.55),
    Style(height=1.73, shirt=(0.24, 0.45, 0.30), trousers=(0.13, 0.16, 0.30), phase=0.12),
    Style(height=1.75, shirt=(0.55, 0.56, 0.58), trousers=(0.28, 0.22, 0.16), sleeves=1.2, phase=0.70),
    Style(height=1.72, shirt=(0.18, 0.16, 0.20), trousers=(0.20, 0.25, 0.45), legs="short", phase=0.41),
)
_SUBJECTS = {"S1": 0, "S5": 1, "S9": 2, "S6": 3, "S7": 4, "S8": 5}


def style_of(subject: str) -> Style:
    """The style of a subject, always the same for the same name."""
    return _STYLES[_SUBJECTS.get(subject, sum(subject.encode()) % len(_STYLES))]


def body(skeleton: Skeleton, pose: Pose, style: Style) -> list[Primitive]:
    """The person's primitives in the body's own frame."""
    return [
        *_trunk(skeleton, style),
        *_head(skeleton, style),
        *(p for side in (1, -1) for p in _arm(skeleton, side, style)),
        *(p for side in (1, -1) for p in _leg(skeleton, pose, side, style)),
    ]


def _trunk(s: Skeleton, style: Style) -> list[Primitive]:
    k, up, right, fw = s.size, s.up, s.right, s.forward
    x, y = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    pelvis, spine, thorax = s.joints["pelvis"], s.joints["spine"], s.joints["thorax"]
    cap = _scaled(k)
    seat, back = pelvis + 0.01 * k * up, -0.03 * k * y - 0.02 * k * up
    parts = [
        cap(seat - 0.055 * k * x, seat + 0.055 * k * x, 0.105, 0.105, style.trousers, (y, 0.92)),
        cap(pelvis, pelvis + 0.10 * k * up, 0.150, 0.140, style.trousers, (y, 0.72)),
        cap(pelvis + 0.055 * k * up, pelvis + 0.085 * k * up, 0.152, 0.148, style.shirt, (y, 0.76)),
        cap(pelvis - 0.07 * k * x + back, pelvis + 0.07 * k * x + back, 0.095, 0.095, style.trousers, (y, 0.95)),
        cap(pelvis + 0.165 * k * up, spine + 0.02 * k * up, 0.142, 0.138, style.shirt, (y, 0.70)),
        cap(spine, thorax + k * (0.012 * fw - 0.13 * up), 0.138, 0.165, style.shirt, (fw, 0.68)),
        cap(
            thorax + k * (0.03 * fw - 0.13 * up - 0.06 * right),
            thorax + k * (0.03 * fw - 0.13 * up + 0.06 * right),
            0.095, 0.095, style.shirt, (fw, 0.85),
        ),
    ]  # fmt: skip
    for sign, name in ((1, "right_shoulder"), (-1, "left_shoulder")):
        shoulder = s.joints[name]
        yoke = thorax + k * (sign * 0.03 * right - 0.005 * up - 0.01 * fw)
        side = thorax + k * (sign * 0.05 * right - 0.10 * up)
        parts.append(cap(yoke, shoulder, 0.058, 0.062, style.shirt))
        parts.append(cap(side, shoulder - 0.03 * k * up, 0.085, 0.058, style.shirt))
    return parts


def _head(s: Skeleton, style: Style) -> list[Primitive]:
    k, c = s.size, s.skull
    x, y, z = s.head
    local = Local(s.head, c, k)
    face: dict[str, Any] = {"local": local, "paint": partial(_paint_face, style=style)}
    cap, thorax = _scaled(k), s.joints["thorax"]

    def ball(at: Floats, axes: tuple[float, float, float], colour: Colour, **more: Any) -> Primitive:
        return ellipsoid(at, (axes[0] * k, axes[1] * k, axes[2] * k), s.head, colour, **more)

    return [
        cap(thorax - k * (0.03 * z + 0.012 * s.forward), c - k * (0.05 * z + 0.02 * y), 0.060, 0.054, style.skin),
        ball(c + k * (0.012 * z - 0.012 * y), (0.076, 0.094, 0.095), style.skin, **face),
        cap(c + k * (0.018 * y - 0.005 * z), c + k * (0.045 * y - 0.072 * z), 0.070, 0.038, style.skin, **face),
        ball(c + k * (0.03 * z - 0.025 * y), (0.083, 0.096, 0.092), style.hair, local=local, keep=_hair),
        ball(c - k * (0.012 * z + 0.045 * y), (0.078, 0.066, 0.085), style.hair),
        cap(c + k * (0.005 * z + 0.083 * y), c + k * (0.103 * y - 0.022 * z), 0.009, 0.014, style.skin),
        *(
            ball(c + k * (sign * 0.078 * x - 0.012 * z - 0.012 * y), (0.010, 0.022, 0.032), style.skin)
            for sign in (1, -1)
        ),
    ]


def _arm(s: Skeleton, sign: int, style: Style) -> list[Primitive]:
    k, side = s.size, "right" if sign > 0 else "left"
    shoulder, elbow, wrist = (s.joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    cap, skin = _scaled(k), style.skin
    upper, fore = elbow - shoulder, wrist - elbow
    parts = [
        cap(shoulder, shoulder + 0.42 * upper, 0.054, 0.046, skin),
        cap(shoulder + 0.4 * upper, elbow, 0.047, 0.037, skin),
        cap(elbow, elbow + 0.3 * fore, 0.037, 0.041, skin),
        cap(elbow + 0.28 * fore, wrist, 0.041, 0.026, skin),
    ]
    if style.sleeves > 0:
        cuff = 0.053 if style.sleeves < 1 else 0.046
        parts.append(cap(shoulder, shoulder + 0.98 * min(style.sleeves, 1) * upper, 0.062, cuff, style.shirt))
    if style.sleeves > 1:
        parts.append(cap(elbow, elbow + 0.93 * fore, 0.046, 0.036, style.shirt))
    along = unit(fore)
    outward = sign * s.right if abs(along @ s.right) < 0.95 else s.forward
    palm = unit(outward - along * (along @ outward))  # the palm faces the trunk
    across = unit(np.cross(along, palm))
    if across @ (s.up if abs(along @ s.forward) > 0.8 else s.forward) < 0:
        across = -across
    parts.append(cap(wrist + 0.01 * k * along, wrist + 0.07 * k * along, 0.026, 0.036, skin, (palm, 0.5)))
    for i in range(4):
        knuckle = wrist + k * (0.085 * along + (i - 1.5) * 0.018 * across)
        tip = knuckle + (0.07 - 0.006 * abs(i - 1.3)) * k * unit(along - 0.25 * palm)
        parts.append(cap(knuckle, tip, 0.0095, 0.008, skin))
    thumb = wrist + k * (0.03 * along + 0.025 * across)
    parts.append(cap(thumb, wrist + k * (0.085 * along + 0.05 * across - 0.01 * palm), 0.013, 0.009, skin))
    return parts


def _leg(s: Skeleton, pose: Pose, sign: int, style: Style) -> list[Primitive]:
    k, side = s.size, "right" if sign > 0 else "left"
    hip, knee, ankle = (s.joints[f"{side}_{name}"] for name in ("hip", "knee", "foot"))
    cap, x, long = _scaled(k), np.array([1.0, 0, 0]), style.legs == "long"
    shank = ankle - knee
    flesh = hip - 0.028 * sign * k * x  # the thigh begins nearer the middle than Human3.6M's hip
    colour = style.trousers if long else style.skin
    calf = np.cross(x, shank)
    calf = -unit(calf) * (1 if calf[1] > 0 else -1) * 0.012 * k
    parts = [
        cap(flesh, knee, 0.086, 0.056, colour),
        cap(knee, knee + 0.33 * shank + calf, 0.055, 0.057, colour),
        cap(knee + 0.3 * shank + calf, ankle, 0.057, 0.046 if long else 0.038, colour),
    ]
    if long:
        parts.append(cap(knee + 0.5 * shank, ankle, 0.054, 0.052, style.trousers))
    else:
        parts.append(cap(flesh, flesh + 0.62 * (knee - flesh), 0.092, 0.079, style.trousers))
    down, ahead = foot_axes(getattr(pose, f"{side}_shank"), sign)
    for heel, toe, radii, tint, flat in (
        ((0.0, 0.0), (0.03, -0.012), (0.042, 0.044), style.shoes, None),
        ((0.035, -0.03), (0.045, 0.085), (0.044, 0.042), style.shoes, 0.85),
        ((0.02, 0.02), (0.05, 0.13), (0.045, 0.036), style.shoes, 0.8),
        ((0.068, -0.03), (0.068, 0.12), (0.044, 0.04), style.soles, 0.35),
    ):
        a, b = (ankle + k * (low * down + fore * ahead) for low, fore in (heel, toe))
        parts.append(cap(a, b, *radii, tint, flat and (down, flat)))
    return parts


def _scaled(k: float) -> Callable[..., Primitive]:
    """Return `capsule` with its two radii apart, times `k`."""
    return lambda a, b, ra, rb, *args, **more: capsule(a, b, (ra * k, rb * k), *args, **more)


def _hair(q: Floats) -> NDArray[np.bool_]:
    """Return where hair covers the head: all but the face."""
    x, y, z = q.T
    return ~((y > -0.005 + 0.35 * z) & (z < 0.062 + 0.25 * np.abs(x)))


def _paint_face(q: Floats, colours: Floats, style: Style) -> Floats:
    """Paint eyes, brows, cheeks, lips and hairline on points (n, 3) of the head's frame."""
    x, y, z = q.T
    front = y > 0.02
    skin = np.array(style.skin, np.float32)

    def paint(where: NDArray[np.bool_], colour: Any, strength: float = 1.0) -> None:
        colours[where] = colours[where] * (1 - strength) + np.asarray(colour, np.float32) * strength

    def oval(at: tuple[float, float], axes: tuple[float, float]) -> NDArray[np.bool_]:
        return front & (((x - at[0]) / axes[0]) ** 2 + ((z - at[1]) / axes[1]) ** 2 < 1)

    for sign in (1, -1):
        eye = (sign * 0.031, 0.008)
        paint(oval(eye, (0.024, 0.016)), skin * 0.72)
        paint(oval(eye, (0.016, 0.0085)), (0.90, 0.88, 0.86))
        paint(oval(eye, (0.0085, 0.0085)), (0.10, 0.07, 0.05))
        brow = np.abs(z - 0.029 + 0.25 * (np.abs(x) - 0.03) ** 2 / 0.03) < 0.0045
        paint(front & (np.abs(x - sign * 0.032) < 0.021) & brow, np.array(style.hair) * 0.9)
        paint(oval((sign * 0.045, -0.03), (0.018, 0.016)), skin * (1.05, 0.88, 0.86), 0.6)
    paint(oval((0, -0.066), (0.026, 0.0085)), (0.62, 0.28, 0.27))
    paint(oval((0, -0.066), (0.026, 0.0018)), (0.30, 0.12, 0.12))
    paint(oval((0, -0.04), (0.016, 0.005)), skin * 0.6, 0.8)
    paint((z > 0.062 + 0.25 * np.abs(x)) & (y > -0.2), style.hair)
    return colours
