"""A miniature small enough for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl.demo.human36m import Plan
from etl.demo.miniature import render

SMALL = Plan(subjects=("S1", "S9"), actions=("Directions", "Walking"), frames=5, scale=0.3)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a rendered Human3.6M: `SMALL`."""
    folder = tmp_path_factory.mktemp("miniature") / "h36m"
    render(folder, SMALL, workers=1)
    return folder
