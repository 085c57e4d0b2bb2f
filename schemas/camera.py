"""A camera: intrinsics, distortion and pose, with projection and its inverse.

Frame of reference: camera coordinates have x to the right, y down, z forward, in metres; pixels are
0-based with the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SchemaError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """Pinhole camera with optional lens distortion and optional fixed pose.

    Parameters
    ----------
    name : str
        The release's name of the camera.
    width, height : int
        Image size in pixels.
    focal, center : (float, float)
        Focal lengths and principal point in pixels.
    distortion : {"none", "h36m", "opencv"}
        Formula of the lens. ``opencv`` is Brown-Conrady; ``h36m``, from the code of Human3.6M and Fit3D, lacks the
        factor 2 in the tangential term.
    radial : (float, float, float)
        k1, k2, k3.
    tangential : (float, float)
        p1, p2.
    rotation : 3 rows of 3 floats, optional
        World-to-camera rotation R of X_c = R X_w + t.
    translation : 3 floats, optional
        t of X_c = R X_w + t, metres.
    """

    name: str
    width: int
    height: int
    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: Literal["none", "h36m", "opencv"] = "none"
    radial: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)
    rotation: tuple[tuple[float, float, float], ...] | None = None
    translation: tuple[float, float, float] | None = None

    @classmethod
    def from_field_of_view(cls, width: int, height: int, degrees: float, name: str = "assumed") -> Camera:
        """Return a camera without distortion whose longer image side spans `degrees`, for media of unknown camera."""
        focal = max(width, height) / 2 / math.tan(math.radians(degrees) / 2)
        return cls(name, width, height, (focal, focal), ((width - 1) / 2, (height - 1) / 2))

    def project(self, points: Floats) -> Floats:
        """Project camera coordinates to pixels.

        Parameters
        ----------
        points : (..., 3) float
            Camera coordinates; any length unit. Points at or behind the camera give NaN.

        Returns
        -------
        (..., 2) float64
            Pixels.
        """
        points = np.asarray(points, np.float64)
        z = np.where(points[..., 2] > 0, points[..., 2], np.nan)
        return self.distort(points[..., :2] / z[..., None]) * self.focal + self.center

    def distort(self, plane: Floats) -> Floats:
        """Apply the lens to coordinates (..., 2) on the plane z = 1."""
        if self.distortion == "none":
            return plane
        k1, k2, k3 = self.radial
        p1, p2 = self.tangential
        x, y = plane[..., 0], plane[..., 1]
        r2 = x * x + y * y
        stretch = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        factor = 2.0 if self.distortion == "opencv" else 1.0
        stretch = stretch + factor * (p1 * y + p2 * x)
        return np.stack([x * stretch + p2 * r2, y * stretch + p1 * r2], axis=-1)

    def unproject(self, pixels: Floats, iterations: int = 30) -> Floats:
        """Return coordinates (..., 2) on the plane z = 1 that `project` maps to `pixels` (fixed-point inversion)."""
        target = (np.asarray(pixels, np.float64) - self.center) / self.focal
        plane = target.copy()
        for _ in range(iterations if self.distortion != "none" else 0):
            step = target - self.distort(plane)
            plane += step
            # The error after a step is a tenth of it: a ten-millionth of a pixel. NaN stays NaN.
            if not (np.abs(step) > 1e-9).any():
                break
        return plane

    def world_to_camera(self, points: Floats) -> Floats:
        """Return world points (..., 3) in camera coordinates (..., 3), both in metres.

        Raises
        ------
        SchemaError
            When the camera has no pose.
        """
        if self.rotation is None or self.translation is None:
            raise SchemaError(
                "World points need a camera with a pose.",
                f"no pose of camera {self.name!r}",
                "Give rotation and translation.",
            )
        return np.asarray(points, np.float64) @ np.array(self.rotation).T + np.array(self.translation)

    def to_dict(self) -> dict[str, Any]:
        """Return all parameters as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Camera:
        """Build a camera from the values of `to_dict`, whose tuples may have become lists in JSON."""

        def tuples(value: Any) -> Any:
            return tuple(tuples(v) for v in value) if isinstance(value, list | tuple) else value

        return cls(**{name: tuples(value) for name, value in values.items()})
