"""Substitutes for packages that RTMDet and RTMPose import and that don't install everywhere.

mmcv's compiled operators take half an hour to build. These two networks use one of them only, non-maximum suppression.
`install` offers it in plain torch, so that mmcv-lite is enough. It does nothing if a compiled mmcv is installed. For
drawing and evaluation only, mmpose also imports torchvision, which must fit torch, and xtcocotools, which must be
compiled. `import_stubs` replaces them if they are missing.

mmengine imports ``pkg_resources``, which setuptools dropped in version 80: hence ``setuptools<80`` in the extra
`openmmlab`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any, Final

import torch

EXTENSION: Final = "mmcv._ext"


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int = 0) -> torch.Tensor:
    """Greedy non-maximum suppression, with the contract of mmcv's compiled operator.

    Memory is linear in the number of boxes. It runs on the host: each step depends on the last, so a GPU would be
    synchronised at every step.

    Parameters
    ----------
    boxes : (N, 4) float
        x1, y1, x2, y2.
    scores : (N,) float
        Higher is better; among equal scores the first box wins.
    iou_threshold : float
        A box whose overlap with a kept box is larger is dropped.
    offset : {0, 1}
        Added to widths and heights; 1 for corners that are pixels rather than edges.

    Returns
    -------
    (K,) int64
        Rows that are kept, best first, on the device of `boxes`.
    """
    order = scores.argsort(descending=True, stable=True)
    left = boxes[order].float().cpu()
    rows = order.cpu()
    kept = []
    while len(rows):
        kept.append(rows[0])
        best, left, rows = left[0], left[1:], rows[1:]
        sides = torch.minimum(best[2:], left[:, 2:]) - torch.maximum(best[:2], left[:, :2]) + offset
        shared = sides.clamp(min=0).prod(1)
        area = (left[:, 2:] - left[:, :2] + offset).prod(1)
        union = (best[2:] - best[:2] + offset).prod() + area - shared
        apart = ~(shared / union > iou_threshold)
        left, rows = left[apart], rows[apart]
    return torch.stack(kept).to(boxes.device) if kept else boxes.new_zeros((0,), dtype=torch.long)


def install() -> bool:
    """Register the stand-in as mmcv's compiled operators, unless those exist.

    Returns
    -------
    bool
        Whether the stand-in is in use.
    """
    present = sys.modules.get(EXTENSION)
    if present is not None:
        return isinstance(present, _Extension)
    if importlib.util.find_spec(EXTENSION) is not None:
        return False
    sys.modules[EXTENSION] = _Extension()
    return True


class _Extension(types.ModuleType):
    """Has every operator, since mmcv checks that at import; all except NMS raise when called."""

    def __init__(self) -> None:
        super().__init__(EXTENSION)
        self.__spec__ = ModuleSpec(EXTENSION, None)
        self.nms = nms

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"The operator {name} needs the compiled mmcv; this is mmcv-lite with NMS only.")

        return missing


@contextmanager
def import_stubs() -> Iterator[None]:
    """Let mmpose be imported without torchvision and xtcocotools.

    The stubs are removed afterwards: transformers behaves differently if torchvision can be imported.
    """
    stubs: dict[str, types.ModuleType] = {}
    if importlib.util.find_spec("torchvision") is None:
        transforms = _stub("torchvision.transforms", ToPILImage=_ToPILImage)
        stubs |= {"torchvision": _stub("torchvision", transforms=transforms), "torchvision.transforms": transforms}
    if importlib.util.find_spec("xtcocotools") is None:
        # It is a fork of pycocotools with the same names; mmpose needs it for COCO's own metrics only.
        parts = {name: importlib.import_module(f"pycocotools.{name}") for name in ("coco", "cocoeval", "mask")}
        stubs |= {f"xtcocotools.{name}": part for name, part in parts.items()}
        stubs["xtcocotools"] = _stub("xtcocotools", **parts)
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name in stubs:
            del sys.modules[name]


def _stub(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module).update(members)
    return module


class _ToPILImage:
    """mmpose imports this name to draw heat maps, which no model set does."""

    def __call__(self, picture: Any) -> None:
        raise NotImplementedError("Drawing heat maps needs torchvision.")
