"""Plots hold all that they are given."""

from __future__ import annotations

import numpy as np

from etl.report import plots
from tests.etl.report.test_measures import rows


def test_every_camera_has_its_own_mark() -> None:
    some = rows(28)
    cameras = np.array([f"{i % 14}" for i in range(28)])
    fig = plots.depth_scatter(some, cameras)
    shown = {trace.name: (trace.marker.color, trace.marker.symbol) for trace in fig.data if trace.mode == "markers"}
    assert set(shown) == {f"camera {i}" for i in range(14)}
    assert len(set(shown.values())) == 14
