"""Feature maps averaged over the cells of a coarser grid.

The coarser grid covers the map edge to edge. A cell of the map that lies in several coarser cells counts in each by the
shared area. So the map from cells to coarser cells is affine for any two sizes: it is `resize_matrix`. A grid finer
than the map repeats its values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etl.models.geometry import Floats, Size, resize_matrix


def area_weights(cells: int, pooled: int) -> Floats:
    """Weights of `cells` along one axis in each of the `pooled` means.

    Parameters
    ----------
    cells, pooled : int
        Cells of the map, and of the coarser grid, along the axis.

    Returns
    -------
    (pooled, cells) float64
        Each row adds up to 1.
    """
    edges = np.linspace(0, cells, pooled + 1)[:, None]
    start = np.arange(cells)
    shared = np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start)
    return shared.clip(min=0) * (pooled / cells)


def pool(maps: NDArray[np.floating], size: Size) -> Floats:
    """Average maps (..., rows, columns) over a grid of `size` columns and rows, float64."""
    height, width = maps.shape[-2:]
    return area_weights(height, size[1]) @ maps.astype(np.float64) @ area_weights(width, size[0]).T


def px_to_pooled(px_to_cell: Floats, grid: Size, size: Size) -> Floats:
    """Map (3, 3) from image px to cells of the coarser grid.

    Parameters
    ----------
    px_to_cell : (3, 3) float64
        Map from image px to the cells of the network's own map.
    grid, size : (int, int)
        Columns and rows of the network's own map, and of the coarser grid.
    """
    return resize_matrix(grid, size) @ px_to_cell
