from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.camera import Camera
from schemas.errors import SchemaError

# Human3.6M's camera 54138969: public numbers of the release's metadata.xml.
H36M = Camera(
    "54138969",
    1000,
    1002,
    (1145.0494, 1143.7811),
    (512.5415, 515.4515),
    "h36m",
    (-0.207099, 0.247775, -0.003075),
    (-0.001424, -0.000976),
)


def test_projection_by_hand() -> None:
    camera = Camera("c", 100, 80, (200.0, 100.0), (50.0, 40.0))
    assert camera.project(np.array([0.5, -0.2, 2.0])).tolist() == [100.0, 30.0]


def test_points_behind_the_camera_have_no_pixel() -> None:
    assert np.isnan(H36M.project(np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]))).all()


def test_opencv_distortion_is_opencvs() -> None:
    camera = Camera(**{**H36M.to_dict(), "distortion": "opencv"})
    points = np.random.default_rng(0).uniform([-1, -1, 4], [1, 1, 6], (50, 3))
    matrix = np.array([[camera.focal[0], 0, camera.center[0]], [0, camera.focal[1], camera.center[1]], [0, 0, 1]])
    k1, k2, k3 = camera.radial
    expected, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), matrix, np.array([k1, k2, *camera.tangential, k3])
    )
    np.testing.assert_allclose(camera.project(points), expected[:, 0], atol=1e-6)


def test_h36m_distortion_by_the_releases_formula() -> None:
    x, y, z = 0.7, -0.9, 5.0
    u, v = x / z, y / z
    r2 = u * u + v * v
    (k1, k2, k3), (p1, p2) = H36M.radial, H36M.tangential
    stretch = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * v + p2 * u
    expected = np.array([u * stretch + p2 * r2, v * stretch + p1 * r2]) * H36M.focal + H36M.center
    np.testing.assert_allclose(H36M.project(np.array([x, y, z])), expected, atol=1e-9)


@settings(deadline=None)
@given(x=st.floats(0, 999), y=st.floats(0, 1001))
def test_unproject_inverts_project(x: float, y: float) -> None:
    plane = H36M.unproject(np.array([x, y]))
    np.testing.assert_allclose(H36M.project(np.array([*plane, 1.0])), [x, y], atol=1e-6)


def test_world_to_camera() -> None:
    turn = ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0))
    camera = Camera("c", 10, 10, (1.0, 1.0), (0.0, 0.0), rotation=turn, translation=(0.0, 1.5, 4.0))
    assert camera.world_to_camera(np.array([1.0, 2.0, 3.0])).tolist() == [-2.0, -1.5, 5.0]
    with pytest.raises(SchemaError, match="pose"):
        H36M.world_to_camera(np.zeros(3))


def test_field_of_view_spans_the_longer_side() -> None:
    camera = Camera.from_field_of_view(101, 51, 90)
    edge = camera.unproject(np.array([[-0.5, 25.0], [100.5, 25.0]]))
    np.testing.assert_allclose(np.degrees(np.arctan(edge[:, 0])), [-45, 45], atol=1e-9)


def test_json_round_trip() -> None:
    import json

    assert Camera.from_dict(json.loads(json.dumps(H36M.to_dict()))) == H36M
