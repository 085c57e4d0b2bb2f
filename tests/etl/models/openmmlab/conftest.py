"""Pictures, and checkpoints with seeded random weights, written as the authors write theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.camera import Camera
from schemas.keys import SequenceKey

SIZES = ((1000, 1002), (404, 720), (640, 360), (333, 200))
"""Widths and heights: as Human3.6M, portrait, landscape, smaller than any network's input."""


def draw(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """RGB picture of random rectangles over each other, which have edges at every scale."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(150):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = (rng.random(2) ** 3 * (width, height)).astype(int) + 4
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return image


@pytest.fixture(scope="session", autouse=True)
def _own_model_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Networks are exported into a folder of the tests, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XYCD_MODEL_CACHE", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(scope="session")
def images() -> list[NDArray[np.uint8]]:
    """One picture a size."""
    return [draw(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="session")
def frames(images: list[NDArray[np.uint8]]) -> list[Any]:
    """The pictures as frames."""
    from etl.models.base import Frame

    key = SequenceKey("folder", "one", "walk", 1, "c")
    cameras = (Camera.from_field_of_view(image.shape[1], image.shape[0], 55.0) for image in images)
    return [Frame(key, i, image, camera) for i, (image, camera) in enumerate(zip(images, cameras, strict=True))]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    """Function that writes random weights of detector, pose and depth to files, and gives options that name them."""
    torch = pytest.importorskip("torch")

    @functools.cache
    def written(detector: str, pose: str, depth: str) -> dict[str, Any]:
        from etl.models.auglift import model_set as auglift

        folder: Path = tmp_path_factory.mktemp("weights")
        names = {"detector": detector, "pose": pose, "depth": depth}
        models = auglift.build({**names, "weights": "random", "seed": 3, "device": "cpu"})
        for part in ("detector", "pose"):
            state = getattr(models, part).model.state_dict()
            meta = {"dataset_meta": {"classes": ("person",)}} if part == "detector" else {}
            torch.save({"state_dict": state, "meta": meta}, folder / f"{part}.pth")
        models.depth.model.save_pretrained(folder / "depth")
        return {
            **names,
            "detector_file": folder / "detector.pth",
            "pose_file": folder / "pose.pth",
            "depth_file": folder / "depth",
            "device": "cpu",
        }

    return lambda *names: dict(written(*names))
