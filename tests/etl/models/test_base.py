from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.models.base import ArrayDepth


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    radius=st.integers(0, 12),
    where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_windows_are_the_map_with_nan_around_it(shape, radius, where):
    values = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    x, y = int(where[0] * shape[1]), int(where[1] * shape[0])
    centers = np.array([[[x, y], [0, 0]], [[shape[1] - 1, 0], [0, shape[0] - 1]]])
    windows = ArrayDepth(values).windows(centers, radius)
    assert (windows.shape, windows.dtype) == ((2, 2, 2 * radius + 1, 2 * radius + 1), np.float32)
    padded = np.pad(values, radius, constant_values=np.nan)
    for p, j in np.ndindex(2, 2):
        left, top = centers[p, j]
        np.testing.assert_array_equal(windows[p, j], padded[top : top + 2 * radius + 1, left : left + 2 * radius + 1])
    pixels = np.arange(values.size)[::-2]
    np.testing.assert_array_equal(ArrayDepth(values).at(pixels), pixels.astype(np.float32))
