"""A person made of 17 joints, cameras and a projection, written without the code under test."""

from __future__ import annotations

import math

import numpy as np

# Metres; z up, facing +y, so that +x is the person's right. H36M_17 order.
STANDING = np.array(
    [
        [0.00, 0.00, 0.95],
        [0.12, 0.00, 0.93], [0.13, 0.04, 0.50], [0.14, -0.02, 0.09],
        [-0.12, 0.00, 0.93], [-0.14, 0.06, 0.50], [-0.13, 0.02, 0.08],
        [0.00, -0.02, 1.18], [0.01, -0.02, 1.43], [0.01, 0.06, 1.53], [0.01, 0.02, 1.72],
        [-0.17, -0.02, 1.40], [-0.25, -0.04, 1.12], [-0.24, 0.14, 0.92],
        [0.18, -0.02, 1.40], [0.27, -0.01, 1.13], [0.30, 0.20, 1.05],
    ]
)  # fmt: skip


def people(frames: int, start: tuple[float, float, float] = (0.0, 0.0, 0.0), seed: int = 0) -> np.ndarray:
    """Joints (F, 17, 3) in metres of someone who walks, turns and sways; world z up."""
    rng = np.random.default_rng(seed)
    joints = np.empty((frames, 17, 3))
    for f in range(frames):
        angle = 0.6 * seed + 0.03 * f
        turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        swayed = STANDING + rng.normal(0, 0.01, (17, 3))
        joints[f] = swayed @ turn.T + np.array(start) + np.array([0.02 * f, 0.01 * f, 0])
    return joints


def looking_at(origin: tuple[float, float, float], target: tuple[float, float, float], up: str = "z") -> np.ndarray:
    """World-to-camera matrix (4, 4), metres, of a camera at `origin`; x right, y down, z forward."""
    forward = np.array(target, float) - np.array(origin, float)
    forward /= np.linalg.norm(forward)
    upward = np.array([0.0, 0, 1] if up == "z" else [0.0, 1, 0])
    right = np.cross(forward, upward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ np.array(origin, float)
    return matrix


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) through a 4x4 matrix, one by one."""
    flat = [(matrix @ np.append(point, 1.0))[:3] for point in points.reshape(-1, 3)]
    return np.array(flat).reshape(points.shape)


def pinhole(intrinsics: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) of camera coordinates (..., 3), by homogeneous coordinates."""
    flat = [intrinsics @ point for point in points.reshape(-1, 3)]
    return np.array([[u / w, v / w] for u, v, w in flat]).reshape(*points.shape[:-1], 2)
