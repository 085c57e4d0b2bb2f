"""Sample the networks' feature maps at joints.

A feature map covers its network's input edge to edge. Positions on it are in cells: the centre of the first cell is at
(0, 0), x points right and y down.

`crop_to_grid` and `image_to_grid` give the true geometry. `auglift_crop_to_grid` and `auglift_image_to_grid` reproduce
the published scripts, which assume a crop of another shape and stretch the map by a cell.
"""

from __future__ import annotations

import functools
from typing import Final, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from etl.models.auglift.catalog import Sampling
from etl.models.auglift.pooling import area_weights
from etl.models.geometry import Size, resize_matrix, translation_matrix

Matrix = NDArray[np.float64]
SAMPLINGS: Final[tuple[str, ...]] = get_args(Sampling)

# In cells. Networks place joints on a grid of their own, so many lie on a cell's centre up to rounding errors, which
# must not decide which cells are the neighbours.
_SNAP: Final = 2.0**-12

# RTMPose's input as the published scripts assume it, with width and height swapped.
_AUGLIFT_INPUT: Final[Size] = (384, 288)


def image_to_grid(image_size: Size, grid: Size) -> Matrix:
    """Map from image px to cells of a map that covers the whole image.

    Parameters
    ----------
    image_size, grid : (int, int)
        Width and height, in px and in cells.
    """
    return resize_matrix(image_size, grid)


def crop_to_grid(crop: Matrix, crop_size: Size, grid: Size) -> Matrix:
    """Map from image px to cells of a map that covers a crop.

    Parameters
    ----------
    crop : (3, 3) float64
        Map from image px to crop px.
    crop_size, grid : (int, int)
        Width and height, in px and in cells.
    """
    return resize_matrix(crop_size, grid) @ crop


def auglift_image_to_grid(image_size: Size, grid: Size) -> Matrix:
    """The published map from image px to cells: x / W (Wf - 1)."""
    return np.diag([(grid[0] - 1) / image_size[0], (grid[1] - 1) / image_size[1], 1.0])


def auglift_crop_to_grid(box: ArrayLike, grid: Size) -> Matrix:
    """The published map from image px to cells of RTMPose's features.

    It assumes that the crop shows the unpadded box, fitted into 384 x 288 with borders at both sides.

    Parameters
    ----------
    box : (4,) float
        x1, y1, x2, y2 in px.
    grid : (int, int)
        Width and height in cells.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    width, height = _AUGLIFT_INPUT
    scale = min(width / (x2 - x1), height / (y2 - y1))
    border = (width - int((x2 - x1) * scale)) / 2, (height - int((y2 - y1) * scale)) / 2
    fitted = translation_matrix(*border) @ np.diag([scale, scale, 1.0]) @ translation_matrix(-x1, -y1)
    return auglift_image_to_grid(_AUGLIFT_INPUT, grid) @ fitted


def pooled(features: torch.Tensor, size: Size) -> torch.Tensor:
    """Average maps over a coarser grid, on their device; see `etl.models.auglift.pooling`.

    Parameters
    ----------
    features : (P, C, h, w) float
        One map a person.
    size : (int, int)
        Columns and rows of the coarser grid.

    Returns
    -------
    (P, C, rows, columns) float16
    """
    height, width = features.shape[-2:]
    over_rows, over_columns = (
        _weights_on(features.device, cells, kept) for cells, kept in ((height, size[1]), (width, size[0]))
    )
    with torch.inference_mode():
        return (over_rows @ features.float() @ over_columns.T).half()


@functools.lru_cache(maxsize=16)
def _weights_on(device: torch.device, cells: int, kept: int) -> torch.Tensor:
    """Weights of `area_weights` on a device, sent once."""
    return torch.from_numpy(area_weights(cells, kept)).to(device, torch.float32)


def sample(
    features: torch.Tensor, cells: torch.Tensor, how: Sampling = "nearest_4", window: int = 3, *, snap: bool = True
) -> torch.Tensor:
    """Sample features at positions of each map.

    Parameters
    ----------
    features : (B, C, h, w) float
        Maps.
    cells : (B, J, 2) float
        Positions x, y in cells; those outside count as at the border. NaN gives NaN.
    how : {"nearest_1", "nearest_2", "nearest_4", "bilinear", "average"}
        The nearest cell; the mean of the two cells left and right of the position, or above and below it (those
        across the nearer line of cells); the mean of the 2 x 2 cells around it, clamped to the map; their bilinear
        interpolation; or the mean of the `window` x `window` cells around the nearest, without those off the map.
    window : int
        Odd; for ``average``.
    snap : bool
        Move positions to a cell's centre if they differ from it by rounding errors only. The published scripts don't.

    Returns
    -------
    (B, J, C), dtype of `features`
    """
    if how == "average":
        pool = torch.nn.functional.avg_pool2d
        features = pool(features, window, stride=1, padding=window // 2, count_include_pad=False)
    known = torch.isfinite(cells).all(-1)
    positions = torch.where(known[..., None], cells, 0.0).double()
    x, y = ((positions / _SNAP).round() * _SNAP if snap else positions).unbind(-1)
    height, width = features.shape[-2:]
    left, right = (torch.floor(x) + step for step in (0, 1))
    top, bottom = (torch.floor(y) + step for step in (0, 1))
    left, right = left.clamp(0, width - 1), right.clamp(0, width - 1)
    top, bottom = top.clamp(0, height - 1), bottom.clamp(0, height - 1)
    # Fractions of a cell; beyond the border both neighbours are the same cell, and their weights add up to 1.
    dx, dy = x - left, y - top

    def at(column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        index = (row * width + column).long()[:, None].expand(-1, features.shape[1], -1)
        return features.flatten(2).gather(2, index).transpose(1, 2)

    def weight(values: torch.Tensor) -> torch.Tensor:
        return values[..., None].to(features.dtype)

    if how in ("nearest_1", "average"):
        found = at(torch.where(dx < 0.5, left, right), torch.where(dy < 0.5, top, bottom))
    elif how == "nearest_2":
        sideways = torch.minimum(dx, 1 - dx) < torch.minimum(dy, 1 - dy)
        other = at(torch.where(sideways, right, left), torch.where(sideways, top, bottom))
        found = (at(left, top) + other) / 2
    elif how == "nearest_4":
        found = (at(left, top) + at(left, bottom) + at(right, top) + at(right, bottom)) / 4
    else:
        upper = weight(1 - dx) * at(left, top) + weight(dx) * at(right, top)
        lower = weight(1 - dx) * at(left, bottom) + weight(dx) * at(right, bottom)
        found = weight(1 - dy) * upper + weight(dy) * lower
    return torch.where(known[..., None], found, torch.nan)
