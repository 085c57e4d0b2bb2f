"""Kept maps of the real classes of networks: means of what the networks gave, where the picture has it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra openmmlab")
pytest.importorskip("mmpose", reason="needs the extra openmmlab")

import torch

from etl.models.auglift import model_set as auglift
from etl.models.auglift.embedding import sample
from etl.models.base import Detections, Frame, MapSource
from etl.models.geometry import apply
from tests.etl.models.openmmlab import MARKS
from tests.etl.models.openmmlab.test_auglift import SMALL

pytestmark = MARKS

SIZES = {"pose": (3, 4), "depth": (8, 8)}


@pytest.fixture(scope="module")
def models() -> auglift.AugliftModels:
    return auglift.build(SMALL)


def test_maps_are_means_of_the_networks_own(models: auglift.AugliftModels, frames: list[Frame]) -> None:
    assert isinstance(models, MapSource)
    boxes = np.array([[40, 50, 200, 190], [100, 20, 180, 180]], np.float32)
    detections = [Detections(boxes[: i + 1], np.ones(i + 1, np.float32)) for i in range(2)]
    poses = models.estimate_poses(frames[:2], detections)
    depths = models.estimate_depth(frames[:2], poses)
    found = models.pool_maps(poses, depths, SIZES)
    assert [len(maps["pose"].values) for maps in found] == [1, 2]
    for people, depth, maps in zip(poses, depths, found, strict=True):
        own = torch.stack(people.own["features"]).float().numpy()
        assert maps["pose"].grid == models.pose.grid == (6, 8)
        blocks = own.reshape(len(own), own.shape[1], 4, 2, 3, 2).mean(axis=(3, 5))
        np.testing.assert_allclose(maps["pose"].values.astype(float), blocks, rtol=2e-3, atol=2e-3)
        assert maps["depth"].grid == depth.grid
        rows, columns = depth.features.shape[1:]
        fine = depth.features.float().numpy().repeat(8, axis=1).repeat(8, axis=2)
        means = fine.reshape(-1, 8, rows, 8, columns).mean(axis=(2, 4))
        for values in maps["depth"].values.astype(float):
            np.testing.assert_allclose(values, means, rtol=2e-3, atol=2e-3)


def test_cells_of_their_own_size_are_where_embeddings_are_read(
    models: auglift.AugliftModels, frames: list[Frame]
) -> None:
    """With the networks' own grids nothing is averaged, so joints find the same values on the kept maps."""
    boxes = np.array([[300, 200, 700, 900]], np.float32)
    poses = models.estimate_poses(frames[:1], [Detections(boxes, np.ones(1, np.float32))])
    depths = models.estimate_depth(frames[:1], poses)
    joints = [poses[0].keypoints]
    (embedded,) = models.embed(poses, depths, joints)
    (maps,) = models.pool_maps(poses, depths, {"pose": models.pose.grid, "depth": depths[0].grid})
    for name, expected in (("pose", embedded.pose), ("depth", embedded.depth)):
        cells = apply(maps[name].px_to_cell[0], joints[0])
        values = torch.from_numpy(maps[name].values.astype(np.float32))
        read = sample(values, torch.from_numpy(cells), models.settings.sampling, models.settings.window)
        np.testing.assert_allclose(read[0].numpy(), expected[0].astype(float), rtol=2e-3, atol=2e-3)
