from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from etl.models.base import ArrayDepth, PartialDepth


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_a_part_reads_as_the_whole_map_does(height: int, width: int, data: st.DataObject) -> None:
    values = np.random.default_rng(height * 31 + width).random((height, width), np.float32)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    whole, part = ArrayDepth(values), PartialDepth(values[top:bottom, left:right], left, top, (height, width))
    y, x = (axis.ravel() for axis in np.mgrid[top:bottom, left:right])
    np.testing.assert_array_equal(part.at(y * width + x), whole.at(y * width + x))
    centers = np.stack([x, y], axis=-1)[None]
    windows = part.windows(centers, 2)
    expected = whole.windows(centers, 2)
    inside = np.isfinite(windows)  # NaN where the window leaves the part
    np.testing.assert_array_equal(windows[inside], expected[inside])
    assert inside[..., 2, 2].all()
    assert part.shape == whole.shape
    np.testing.assert_array_equal(part.to_array()[top:bottom, left:right], values[top:bottom, left:right])
    assert np.isfinite(part.to_array()).sum() == (bottom - top) * (right - left)
