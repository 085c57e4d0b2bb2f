from __future__ import annotations

import numpy as np
import pytest

from etl.models.auglift.pooling import area_weights, pool, px_to_pooled
from etl.models.geometry import apply, resize_matrix


def test_blocks_that_divide_the_map_are_plain_means() -> None:
    values = np.random.default_rng(0).normal(size=(2, 5, 12, 9)).astype(np.float32)
    expected = values.reshape(2, 5, 4, 3, 3, 3).mean(axis=(3, 5))
    np.testing.assert_allclose(pool(values, (3, 4)), expected, atol=1e-6)


def test_other_sizes_count_cells_by_area() -> None:
    """As if every cell were cut into small ones: 37 cells in 8 is 296 in 8."""
    values = np.random.default_rng(1).normal(size=(3, 37, 66))
    fine = values.repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_allclose(pool(values, (8, 8)), fine.reshape(3, 8, 37, 8, 66).mean(axis=(2, 4)), atol=1e-12)


@pytest.mark.parametrize(("cells", "pooled"), [(9, 3), (37, 8), (5, 5), (3, 7), (1, 4), (66, 1)])
def test_weights_share_out_everything_evenly(cells: int, pooled: int) -> None:
    weights = area_weights(cells, pooled)
    assert weights.shape == (pooled, cells)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.sum(axis=0), pooled / cells)


@pytest.mark.parametrize(("grid", "size", "tolerance"), [((9, 12), (3, 4), 1e-9), ((37, 66), (8, 9), 0.05)])
def test_positions_follow_the_means(grid: tuple[int, int], size: tuple[int, int], tolerance: float) -> None:
    """A ramp's mean over a cell is its value at the cell's centre, but for the steps that cells are cut at."""
    columns, rows = np.meshgrid(np.arange(grid[0], dtype=np.float64), np.arange(grid[1], dtype=np.float64))
    to_grid = resize_matrix((1000, 1002), grid)
    to_cells = px_to_pooled(to_grid, grid, size)
    kept = np.stack([pool(columns, size), pool(rows, size)], axis=-1)
    centers = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1)
    px = apply(np.linalg.inv(to_cells), centers)
    np.testing.assert_allclose(apply(to_grid, px), kept, atol=tolerance)


def test_a_finer_grid_repeats() -> None:
    np.testing.assert_allclose(pool(np.array([[1.0, 2.0]]), (4, 2)), [[1, 1, 2, 2]] * 2)
