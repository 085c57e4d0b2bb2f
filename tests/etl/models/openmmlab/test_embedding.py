"""Positions on feature maps, and what is read there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")

from etl.models.auglift.embedding import (
    SAMPLINGS,
    auglift_crop_to_grid,
    auglift_image_to_grid,
    crop_to_grid,
    image_to_grid,
    sample,
)
from etl.models.geometry import apply, crop_matrix
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS

# Rows of a map of 3 lines and 4 columns: 0 1 2 3 / 10 11 12 13 / 20 21 22 23.
MAP = (torch.arange(3.0)[:, None] * 10 + torch.arange(4.0))[None, None]


def read(x: float, y: float, how: str, window: int = 3) -> float:
    """One number off MAP."""
    return float(sample(MAP, torch.tensor([[[x, y]]]), how, window)[0, 0, 0])


@pytest.mark.parametrize(
    ("how", "expected"),
    [("nearest_1", 2.0), ("nearest_2", 1.5), ("nearest_4", 6.5), ("bilinear", 1.7 + 4.0), ("average", 7.0)],
)
def test_inside_each_way_reads_what_it_says(how: str, expected: float) -> None:
    # (1.7, 0.4): nearest cell (2, 0). The nearer line of cells is x = 2 (0.3) rather than y = 0 (0.4): the pair is
    # left and right, 1 and 2. Four cells: 1 2 11 12. Average of 3 x 3 around (2, 0), of which 6 are on the map.
    # Cells are told apart to 2 ** -12, and lines are 10 apart.
    assert read(1.7, 0.4, how) == pytest.approx(expected, abs=0.005)


def test_nearest_2_takes_the_pair_above_and_below_near_a_line_of_rows() -> None:
    assert read(1.4, 0.9, "nearest_2") == pytest.approx((1 + 11) / 2)


@pytest.mark.parametrize("how", SAMPLINGS)
@pytest.mark.parametrize(("x", "y", "corner"), [(-3.3, -0.2, 0.0), (9.0, 7.6, 23.0), (3.0, -5.0, 3.0)])
def test_outside_counts_as_the_border(how: str, x: float, y: float, corner: float) -> None:
    if how != "average":
        assert read(x, y, how) == corner
    else:
        assert read(x, y, how) == read(min(max(x, 0), 3), min(max(y, 0), 2), how)


def test_a_position_on_a_cell_is_not_moved_by_rounding() -> None:
    for how in ("nearest_2", "nearest_4"):
        assert read(2.0 - 1e-5, 1.0 + 1e-5, how) == read(2.0, 1.0, how)


def test_an_unknown_joint_has_no_features() -> None:
    found = sample(MAP, torch.tensor([[[float("nan"), 1.0], [1.0, 1.0]]]))
    assert torch.isnan(found[0, 0]).all()
    assert torch.isfinite(found[0, 1]).all()


def test_windows_of_one_cell_are_the_nearest() -> None:
    assert read(1.7, 1.4, "average", 1) == read(1.7, 1.4, "nearest_1") == 12.0


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(60, 2500), st.integers(60, 2500)),
    st.tuples(st.integers(9, 70), st.integers(9, 70)),
    st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
)
def test_a_map_of_positions_gives_the_position_back(
    size: tuple[int, int], grid: tuple[int, int], place: tuple[float, float]
) -> None:
    # Each cell holds the centre, in image px, of the rectangle of the image that it covers.
    centers = [(np.arange(n) + 0.5) * length / n - 0.5 for n, length in zip(grid, size, strict=True)]
    ramps = torch.from_numpy(np.stack(np.meshgrid(*centers)))[None].float()
    point = np.array(place) * size
    cells = torch.from_numpy(apply(image_to_grid(size, grid), point))[None, None]
    found = sample(ramps, cells, "bilinear")[0, 0].numpy()
    inside = [c[0] <= p <= c[-1] for c, p in zip(centers, point, strict=True)]
    if all(inside):
        np.testing.assert_allclose(found, point, atol=0.1)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.floats(-200, 2000), st.floats(-200, 2000)),
    st.floats(40, 1500),
    st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
)
def test_features_of_a_crop_are_where_the_crop_is(
    center: tuple[float, float], height: float, place: tuple[float, float]
) -> None:
    region = np.array([0.75 * height, height])
    crop = crop_matrix(center, region, 0.0, (288, 384))
    # A map of 9 x 12 cells: each holds the image px at the middle of its ninth and twelfth of the region.
    low = np.array(center) - region / 2
    steps = [(np.arange(n) + 0.5) / n for n in (9, 12)]
    ramps = torch.from_numpy(np.stack(np.meshgrid(*(low[i] + steps[i] * region[i] for i in (0, 1)))))[None].double()
    point = low + np.array(place) * region
    cells = torch.from_numpy(apply(crop_to_grid(crop, (288, 384), (9, 12)), point))[None, None]
    found = sample(ramps, cells, "bilinear")[0, 0].numpy()
    np.testing.assert_allclose(found, point, atol=0.1)


def test_the_published_map_of_the_image_is_reproduced() -> None:
    # x / W (Wf - 1): 500 / 1000 * 36 and 250 / 1002 * 36.
    found = apply(auglift_image_to_grid((1000, 1002), (37, 37)), (500.0, 250.0))
    np.testing.assert_allclose(found, (18.0, 250 / 1002 * 36))


def test_the_published_map_of_the_crop_is_reproduced() -> None:
    # A box of 200 x 400 at (100, 50): scale min(384 / 200, 288 / 400) = 0.72; 144 x 288 in 384 x 288, so 120 px of
    # border at the left and none above. The joint (150, 250) is at (36 + 120, 144) of 384 x 288.
    found = apply(auglift_crop_to_grid((100, 50, 300, 450), (9, 12)), (150.0, 250.0))
    np.testing.assert_allclose(found, (156 / 384 * 8, 144 / 288 * 11))


def test_the_published_border_comes_from_whole_pixels() -> None:
    # 100 x 301: scale 288 / 301; the width 95.68 is cut to 95, so the border is 144.5.
    found = apply(auglift_crop_to_grid((0, 0, 100, 301), (9, 12)), (0.0, 0.0))
    np.testing.assert_allclose(found, (144.5 / 384 * 8, 0.0))
