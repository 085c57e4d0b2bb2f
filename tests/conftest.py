"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a gate that fails by the throw of a die stops whoever happens to stand before it.
# To look for new ones: HYPOTHESIS_PROFILE=search pytest ..., whose finds become fixed examples.
settings.register_profile("gate", derandomize=True, deadline=None, database=None)
settings.register_profile("search", derandomize=False, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real sample data, which isn't part of the project; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("XYCD_SAMPLES", Path(__file__).parents[2] / "shared" / "samples"))
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set XYCD_SAMPLES")
    return folder


@pytest.fixture(scope="session")
def embedded_weights() -> Path:
    """Folder of the embedded networks' files: the user's own cache, filled with pip where it is empty."""
    from etl.models.files import weights

    for name in ("pose_detection.tflite", "pose_landmark_full.tflite"):
        weights.fetch(name)
    return weights.cache_folder()


@pytest.fixture(autouse=True, scope="session")
def _quiet_dask() -> None:
    """Keep the scheduler's chatter out of the reports of failed tests."""
    import logging

    logging.getLogger("distributed").setLevel(logging.WARNING)
