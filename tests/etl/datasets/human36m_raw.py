"""Small raw releases of Human3.6M for tests: pose files, metadata.xml and numbered videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etl.datasets.human36m.metadata import Metadata, read_metadata
from etl.demo.human36m import write_metadata, write_poses
from schemas.skeletons import H36M_32_TO_17
from tests.etl.datasets.media import write_video

LAYOUTS = {
    "official": ("{subject}", "MyPoseFeatures/D2_Positions", "MyPoseFeatures/D3_Positions_mono"),
    "fetch": ("extracted/{subject}", "Poses_D2_Positions", "Poses_D3_Positions_mono"),
}
# A standing body in H36M_17, world coordinates, metres, z up, looking along -y.
BODY = np.array(
    [
        [0, 0, 0.9], [-0.13, 0, 0.9], [-0.13, 0, 0.47], [-0.13, 0, 0.05],
        [0.13, 0, 0.9], [0.13, 0, 0.47], [0.13, 0, 0.05],
        [0, 0, 1.15], [0, 0, 1.4], [0, -0.08, 1.5], [0, 0, 1.65],
        [0.15, 0, 1.35], [0.18, 0, 1.08], [0.2, -0.05, 0.85], [-0.15, 0, 1.35], [-0.18, 0, 1.08], [-0.2, -0.05, 0.85],
    ]
)  # fmt: skip


def walk(frames: int) -> np.ndarray:
    """World joints (frames, 17, 3) in metres of the body moving along x."""
    return BODY + np.stack([np.linspace(-0.3, 0.3, frames), np.zeros(frames), np.zeros(frames)], -1)[:, None]


def spread(joints: np.ndarray) -> np.ndarray:
    """Joints (F, 17, A) in the release's 32 places; those that aren't among the 17 hold numbers that would show."""
    full = np.full((len(joints), 32, joints.shape[-1]), 12345.0)
    full[:, list(H36M_32_TO_17)] = joints
    return full


def write_release(root: Path, frames: dict[tuple[str, str, int], dict[str, int]] | None = None) -> Metadata:
    """Write metadata.xml alone."""
    root.mkdir(parents=True, exist_ok=True)
    write_metadata(root / "metadata.xml", frames or {})
    return read_metadata(root / "metadata.xml")


def write_sequence(
    root: Path,
    subject: str,
    action: str,
    subaction: int,
    camera: str,
    *,
    poses: int = 12,
    video: int | None = 12,
    layout: str = "official",
    name: str | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Write the pose files and the video of one sequence; its joints (poses, 17, 3) in camera coordinates, metres."""
    metadata = read_metadata(root / "metadata.xml")
    home, place_2d, place_3d = LAYOUTS[layout]
    folder = root / home.format(subject=subject)
    name = f"{name or metadata.names[subject, action, subaction]}.{camera}"
    model = metadata.cameras[subject, camera]
    points = model.world_to_camera(walk(poses))
    write_poses(folder / place_3d / f"{name}.cdf", spread(points * 1000))
    write_poses(folder / place_2d / f"{name}.cdf", spread(model.project(points)))
    if video is not None:
        size = size or (model.width, model.height)
        write_video(folder / "Videos" / f"{name}.mp4", video, gop=6, size=size, preset="ultrafast")
    return points
