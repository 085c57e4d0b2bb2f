"""How the descriptor's windows are shared, and the precision of what it adds up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.models.base import ArrayDepth
from etl.stages.blocks import descriptor
from tests.etl.stages.blocks.test_descriptor import WITH_STATISTICS, values_at

radii_of_17 = st.lists(st.sampled_from([3.0, 3.5, 4.0, 7.9, 12.0, 20.0, 30.0]), min_size=17, max_size=17)


def pixels_of(groups, radii):
    """Window pixels of all groups together."""
    return sum(len(rows) * (2 * int(radii[rows].max()) + 1) ** 2 for rows in groups)


@given(radii_of_17)
def test_joints_share_windows_unless_two_groups_save_enough_pixels(values):
    radii = np.array(values)
    order = np.argsort(radii, kind="stable")
    whole = pixels_of([order], radii)
    splits = [pixels_of([order[:k], order[k:]], radii) for k in range(1, 17)]
    groups = descriptor._group_by_width(radii)
    assert sorted(np.concatenate(groups).tolist()) == list(range(17))
    assert all((np.diff(rows) > 0).all() for rows in groups)
    if whole - min(splits) < descriptor._SPLIT_GAIN:
        assert len(groups) == 1
    else:
        assert len(groups) == 2
        assert pixels_of(groups, radii) == min(splits)


def test_a_gain_of_just_the_limit_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    radii = np.array([3.0] * 16 + [10.0])
    gain = 17 * 441 - (16 * 49 + 441)
    for limit, groups in ((gain, 2), (gain + 1, 1)):
        monkeypatch.setattr(descriptor, "_SPLIT_GAIN", limit)
        assert len(descriptor._group_by_width(radii)) == groups


def test_the_mean_of_many_pixels_is_added_up_in_float64() -> None:
    depth = np.random.default_rng(1).uniform(1, 9, (120, 120)).astype(np.float32)
    depth[60, 60] = 1e6
    y, x = np.mgrid[:120, :120]
    for torso, reach in ((100.0, 4), (500.0, 20)):
        inside = depth[(x - 60) ** 2 + (y - 60) ** 2 <= reach**2].astype(np.float64)
        found = values_at(depth, config=WITH_STATISTICS, torso=torso)
        assert found["mean"] == np.float32(inside.mean())
        assert found["std"] == np.float32(inside.std())


@pytest.mark.parametrize("statistics", [False, True])
def test_nothing_is_read_beyond_the_widest_radius(statistics: bool) -> None:
    """Windows of a radius of 0.5 px hold one pixel, those of depth_source min3 at least 7 x 7."""
    asked = []

    class Watched(ArrayDepth):
        def windows(self, centers, radius):
            asked.append(radius)
            return super().windows(centers, radius)

    for source, width in (("median", 0), ("min3", 3)):
        config = descriptor.DescriptorConfig(depth_source=source, statistics=statistics, radius_min=0.5, radius_max=0.9)
        joints = np.full((1, 17, 2), 5.0)
        field = Watched(np.ones((12, 12), np.float32))
        descriptor.describe_frames([field], [joints], [np.ones((1, 17))], config)
        assert asked.pop() == width
