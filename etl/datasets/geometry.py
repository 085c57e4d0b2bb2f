"""Checks of what a release claims about cameras and joints, made on every sequence as it is read.

Each check returns the figure that it measured, ready for JSON, and refuses a sequence whose figure can't be
right, naming the file, the rule and the figure. The bounds are wide: they find exchanged sides, mirrored
bodies, wrong cameras, wrong directions and wrong units, not small errors of a release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etl.datasets.checks import COPY_AGAIN
from etl.errors import DatasetError
from schemas.camera import Camera
from schemas.skeletons import H36M_17

Floats = NDArray[np.floating[Any]]

Figures = dict[str, float | str]
"""Figures of a check by name, ready for JSON, which has no infinity: that is ``"inf"``."""

LEG_BONES: Final = ((1, 2), (2, 3), (4, 5), (5, 6))
LEG_LENGTHS: Final = (0.2, 0.7)  # metres; thigh and shank of anyone between a child of six and the tallest adult
MIDDLE: Final = (0.4, 0.6)  # of width and height; the furthest of a release, of Fit3D, is at 0.53
SIDES: Final = 0.8  # least share of frames in which shoulders and hips agree on what is right
SIDES_DOUBTED: Final = 0.95  # below, the share is noted
ORTHONORMAL: Final = 1e-3  # the releases print as few as five digits


def require_rotation(path: Path, name: str, rotation: Floats) -> Floats:
    """Return rotations (..., 3, 3) if they are: orthonormal within ORTHONORMAL, and right-handed."""
    found = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max()
    if not found <= ORTHONORMAL:
        raise DatasetError(
            f"{name!r} of {path} must be a rotation: R Rᵀ must be the identity within {ORTHONORMAL}.",
            f"R Rᵀ is off by {found:.3g}",
            COPY_AGAIN,
        )
    if np.linalg.det(rotation).min() < 0:
        raise DatasetError(
            f"{name!r} of {path} must be a rotation: its determinant must be 1.",
            "a mirror image, determinant -1",
            COPY_AGAIN,
        )
    return rotation


def require_middle(path: Path, camera: Camera) -> Camera:
    """Return `camera`, read from `path`, if its principal point lies near the middle of its image, as all releases'."""
    (fx, fy), (cx, cy) = camera.focal, camera.center
    low, high = MIDDLE
    if not (low < cx / camera.width < high and low < cy / camera.height < high and min(fx, fy) > 0):
        raise DatasetError(
            f"The camera of {path} must look at the middle of frames of {camera.width}x{camera.height}.",
            f"principal point {[cx, cy]}, focal lengths {[fx, fy]}",
            "Use the release's own media: cameras don't fit resized ones.",
        )
    return camera


def measure_reprojection(
    path: Path, camera: Camera, points: Floats, pixels: Floats, bound: float, share: float = 0.95
) -> Figures:
    """How far 3D joints, projected, lie from the release's own 2D joints.

    Parameters
    ----------
    path : Path
        The file that holds the joints, for the message.
    camera : Camera
        Projects `points`.
    points : (..., 3) float
        Camera coordinates, metres.
    pixels : (..., 2) float
        The release's 2D joints. Pairs that aren't finite are left out.
    bound : float
        Pixels that the share must stay below.
    share : float
        The share of joints, 0 to 1.

    Returns
    -------
    dict
        ``median``, ``p95`` (or whatever the share is) and ``max`` in px; the last is ``"inf"`` where joints lie behind
        the camera.

    Raises
    ------
    DatasetError
        When more than 1 - share of the joints are further off than the bound, or lie behind the camera.
    """
    distance = np.linalg.norm(camera.project(points.astype(np.float64)) - pixels, axis=-1)
    distance = np.where(np.isnan(distance), np.inf, distance)  # behind the camera
    compared = np.isfinite(points).all(-1) & np.isfinite(pixels).all(-1)
    return require_near(path, distance[compared], bound, share, "px")


def require_near(path: Path, distance: Floats, bound: float, share: float, unit: str) -> Figures:
    """Refuse distances (N,) of projected joints from the release's 2D joints unless `share` are within `bound`.

    Returns median, the quantile that `share` names, and maximum; nothing where there are no distances.
    """
    if not distance.size:
        return {}
    ordered = np.sort(distance)  # quantiles by rank: interpolation would make NaN of infinity
    quantile = f"p{round(100 * share)}"
    figures = {
        "median": float(ordered[(len(ordered) - 1) // 2]),
        quantile: float(ordered[int(np.ceil(share * len(ordered))) - 1]),
        "max": float(ordered[-1]),
    }
    if not figures[quantile] <= bound:
        raise DatasetError(
            f"The 3D joints of {path} must project onto its 2D joints: {share:.0%} within {bound:g} {unit}.",
            ", ".join(f"{name} {value:.4g} {unit}" for name, value in figures.items()),
            "The camera and the joints don't belong together; copy or unpack the files again from the release.",
        )
    return {name: round(value, 6) if np.isfinite(value) else str(value) for name, value in figures.items()}


def measure_body(path: Path, joints: Floats, front: Floats | None = None) -> Figures:
    """Units, sides and handedness of bodies in camera coordinates.

    Parameters
    ----------
    path : Path
        The file that holds the joints, for the message.
    joints : (N, 17, 3) float
        H36M_17 joints, camera coordinates, metres. Rows that aren't finite are left out.
    front : (N, 3) float, optional
        Vectors to the front of each body; by default from neck_base to thorax backwards, which is where
        the face is.

    Returns
    -------
    dict
        ``leg_m``: median length of thighs and shanks; ``sides`` and ``front``: the shares of frames in which
        shoulders and hips agree on what is right, and the face is in front. `doubts` puts low ones into words.

    Raises
    ------
    DatasetError
        When legs aren't a person's (units), when shoulders and hips agree in less than SIDES of the frames (left and
        right legs exchanged), or when faces look backwards in half of them (mirrored).
    """
    front = joints[:, 9] - joints[:, 8] if front is None else front
    finite = np.isfinite(joints).all((1, 2)) & np.isfinite(front).all(1)
    if not finite.any():
        return {}
    joints, front = joints[finite].astype(np.float64), front[finite].astype(np.float64)
    at = H36M_17.index
    legs = float(np.median([np.linalg.norm(joints[:, a] - joints[:, b], axis=-1) for a, b in LEG_BONES]))
    low, high = LEG_LENGTHS
    if not low <= legs <= high:
        raise DatasetError(
            f"Thighs and shanks in {path} must be {low} to {high} m long.",
            f"{legs:.4g} m in the median",
            "The unit isn't the release's, or joints are exchanged.",
        )
    hips = joints[:, at("right_hip")] - joints[:, at("left_hip")]
    shoulders = joints[:, at("right_shoulder")] - joints[:, at("left_shoulder")]
    sides = float(((shoulders * hips).sum(-1) > 0).mean())
    if sides < SIDES:
        raise DatasetError(
            f"Right shoulder and right hip in {path} must be on the same side of the body in "
            f"{SIDES:.0%} of the frames.",
            f"the same side in {sides:.0%} of the frames",
            "Left and right legs are exchanged, so these aren't the release's joints in its order.",
        )
    back = np.cross(hips, joints[:, at("thorax")] - joints[:, at("pelvis")])
    ahead = float(((back * front).sum(-1) < 0).mean())
    if ahead < 0.5:
        raise DatasetError(
            f"The faces in {path} must be at the front of the bodies.",
            f"the face in front in {ahead:.0%} of the frames",
            "Bodies are mirrored, so the camera's axes or the joints aren't the release's.",
        )
    return {"leg_m": round(legs, 4), "sides": round(sides, 4), "front": round(ahead, 4)}


def doubts(body: Figures) -> list[str]:
    """What of `measure_body`'s figures is odd but can be, as sentences."""
    sides = float(body.get("sides", 1))
    return [f"shoulders and hips agree on what is right in {sides:.0%} of the frames"] if sides < SIDES_DOUBTED else []
