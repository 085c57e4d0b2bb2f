"""The stand-in gives what the compiled operator gives, and gives way to it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra openmmlab")

from etl.models.auglift import mmcv_standin
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS


def overlap(a: list[float], b: list[float], offset: int) -> float:
    """IoU in plain arithmetic."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_nms_is_the_textbooks(seed: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 80, (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (60, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(60).astype(np.float32)
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(overlap(boxes[i].tolist(), boxes[j].tolist(), offset) <= 0.4 for j in kept):
            kept.append(int(i))
    found = mmcv_standin.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4, offset)
    assert found.tolist() == kept
    assert 5 < len(kept) < 60


def test_of_equal_scores_the_first_wins() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    assert mmcv_standin.nms(boxes, torch.ones(3), 0.5).tolist() == [0]


def test_no_boxes_keep_none() -> None:
    found = mmcv_standin.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert found.shape == (0,)
    assert found.dtype == torch.long


def test_a_compiled_mmcv_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec(mmcv_standin.EXTENSION, None)
    monkeypatch.delitem(sys.modules, mmcv_standin.EXTENSION, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert mmcv_standin.install() is False
    assert mmcv_standin.EXTENSION not in sys.modules
    compiled = types.ModuleType(mmcv_standin.EXTENSION)
    monkeypatch.setitem(sys.modules, mmcv_standin.EXTENSION, compiled)
    assert mmcv_standin.install() is False
    assert sys.modules[mmcv_standin.EXTENSION] is compiled


def test_without_one_nms_works_and_the_rest_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, mmcv_standin.EXTENSION, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert mmcv_standin.install() is True
    assert mmcv_standin.install() is True
    extension = sys.modules.pop(mmcv_standin.EXTENSION)
    assert extension.nms is mmcv_standin.nms
    with pytest.raises(NotImplementedError, match="roi_align_forward needs the compiled mmcv"):
        extension.roi_align_forward(1)


def test_stubs_are_there_for_the_import_only() -> None:
    pytest.importorskip("pycocotools")
    missing = [name for name in ("torchvision", "xtcocotools") if importlib.util.find_spec(name) is None]
    with mmcv_standin.import_stubs():
        from xtcocotools.coco import COCO

        assert COCO is not None
        assert all(name in sys.modules for name in missing)
    assert not any(name in sys.modules for name in missing)
