"""Person detection by RTMDet, batched; the same numbers as mmdet's `inference_detector`.

mmdet reads each image's boxes from the device level by level. Here the device gives scores and distances of all images
at once, and the host makes boxes of the few that score high enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from etl.models.auglift import openmmlab
from etl.models.engines.network import Estimator, Forward
from etl.models.engines.torch_runtime import TorchContext
from etl.models.geometry import Size, letterbox_size

Image: TypeAlias = NDArray[np.uint8] | torch.Tensor
"""RGB (H, W, 3) uint8: on the host, or on the device if the networks' inputs are made there."""
Images = Sequence[Image]
People = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes (P, 4) in px and scores (P,)."""
PAD: int = 114
PERSON: int = 0


def letterbox(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize an image into `size` with its aspect kept; pad with grey at the right and at the bottom.

    Parameters
    ----------
    image : (H, W, 3) uint8
        Any order of channels.
    size : (int, int)
        Width and height of the network's input.

    Returns
    -------
    (height, width, 3) uint8
        Bilinear, as ``mmcv.imrescale``.
    """
    fitted = letterbox_size((image.shape[1], image.shape[0]), size)
    canvas = np.full((size[1], size[0], 3), PAD, np.uint8)
    canvas[: fitted[1], : fitted[0]] = cv2.resize(image, fitted, interpolation=cv2.INTER_LINEAR)
    return canvas


def image_scale(image_size: Size, size: Size) -> NDArray[np.float32]:
    """Factors (4,) from boxes x1, y1, x2, y2 in a letterbox of `size` to image px.

    RTMDet's boxes are edges (an image of width W spans [0, W]), so there is no half-pixel shift.
    """
    fitted = letterbox_size(image_size, size)
    return np.array([1 / (fitted[axis] / image_size[axis]) for axis in (0, 1, 0, 1)], np.float32)


def letterbox_on_device(image: torch.Tensor, size: Size) -> torch.Tensor:
    """Letterbox as `letterbox` does, by torch on the image's device; within one level of 255 of OpenCV's."""
    fitted = letterbox_size((image.shape[1], image.shape[0]), size)
    resized = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None].float(), size=(fitted[1], fitted[0]), mode="bilinear", align_corners=False
    )[0]
    canvas = image.new_full((size[1], size[0], 3), PAD)
    canvas[: fitted[1], : fitted[0]] = resized.permute(1, 2, 0).round()
    return canvas


class RTMDetNetwork(openmmlab.FixedSizeNetwork):
    """From letterboxed images to RTMDet's raw outputs: scores of all levels, then distances to the sides of boxes."""

    def __init__(self, model: torch.nn.Module, size: Size) -> None:
        head: Any = model.bbox_head
        levels = range(int(head.prior_generator.num_levels))
        super().__init__(model, size, [f"{kind}_{level}" for kind in ("scores", "distances") for level in levels])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Raw outputs for letterboxed RGB images (N, H, W, 3) uint8."""
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            scores, distances = self.model.bbox_head(tuple(level.float() for level in features))
        return (*scores, *distances)


class PersonDetector(Estimator[Image, torch.Tensor]):
    """RTMDet with the published selection of boxes.

    Parameters
    ----------
    model : torch.nn.Module
        An RTMDet of mmdet, whose class 0 is person.
    config : mmengine.Config
        Of the model.
    context : TorchContext
        Device and precision; the model is moved there.
    forward : Forward, optional
        What runs the `RTMDetNetwork`; torch by default.
    batch : int
        Largest number of images at a time.
    min_score : float
        Boxes score above it.
    max_overlap : float
        Greedy suppression of people above this IoU, with areas counted in pixels, after the network's own.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: Any,
        context: TorchContext,
        *,
        forward: Forward | None = None,
        batch: int = 16,
        min_score: float = 0.3,
        max_overlap: float = 0.3,
    ) -> None:
        self.size = openmmlab.input_size(config)
        self.model: Any = model.to(context.device)
        super().__init__(lambda: RTMDetNetwork(model, self.size), context, forward, batch)
        # Suppression goes from high scores to low, so boxes below the final threshold change nothing.
        self.min_score = max(config.model.test_cfg.score_thr, min_score)
        self.network_overlap, self.max_overlap = config.model.test_cfg.nms.iou_threshold, max_overlap
        self.max_people = config.model.test_cfg.max_per_img
        generator = self.model.bbox_head.prior_generator
        levels = [(self.size[1] // stride, self.size[0] // stride) for stride, _ in generator.strides]
        self._priors = torch.cat(generator.grid_priors(levels, device="cpu")).numpy()

    def detect(self, images: Images) -> list[People]:
        """Boxes (P, 4) float32 px and scores (P,) float32 of the people in RGB images, best first."""
        if not images:
            return []
        (outputs,) = self.context.fetch([torch.stack(self.run(images))])
        return [self._choose(*item) for item in zip(outputs, images, strict=True)]

    def run_batch(self, images: Images) -> list[torch.Tensor]:
        """Score, and distances to left, top, right and bottom, of the person at each prior of an image: (N, 5)."""
        outputs = self.forward(self._inputs(images))
        levels = len(outputs) // 2
        with self.context.inference(exact=True):
            scores = torch.cat([level[:, PERSON].flatten(1) for level in outputs[:levels]], 1).float().sigmoid()
            distances = torch.cat([level.flatten(2) for level in outputs[levels:]], 2).float()
            return list(torch.cat([scores[:, None], distances], 1).transpose(1, 2))

    def _inputs(self, images: Images) -> torch.Tensor:
        """Letterboxed images (N, height, width, 3) uint8 on the device."""
        if isinstance(images[0], torch.Tensor):
            with torch.inference_mode():
                return torch.stack([letterbox_on_device(image, self.size) for image in images])
        return self.context.send(np.stack([letterbox(image, self.size) for image in images]))

    def _choose(self, output: NDArray[np.float32], image: Image) -> People:
        """Boxes and scores of the people in an image, from the network's output (N, 5)."""
        from mmpose.evaluation.functional import nms

        rows = np.flatnonzero(output[:, 0] > self.min_score)
        rows = rows[np.argsort(-output[rows, 0], kind="stable")]
        scores, distances = output[rows, 0], output[rows, 1:]
        boxes = np.concatenate([self._priors[rows] - distances[:, :2], self._priors[rows] + distances[:, 2:]], 1)
        boxes = boxes.clip(0, np.array([*self.size, *self.size], np.float32))
        height, width = image.shape[:2]
        boxes *= image_scale((width, height), self.size)
        sized = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores = boxes[sized], scores[sized]
        kept = suppress(boxes, self.network_overlap)[: self.max_people]
        boxes, scores = boxes[kept], scores[kept]
        kept = nms(np.concatenate([boxes, scores[:, None]], axis=1), self.max_overlap)
        return boxes[kept].reshape(-1, 4), scores[kept]


def suppress(boxes: NDArray[np.float32], max_overlap: float) -> list[int]:
    """Rows of boxes (N, 4), best first, that overlap no kept box before them by an IoU above `max_overlap`."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left, kept = np.arange(len(boxes)), []
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        shared = sides.clip(min=0).prod(axis=1)
        left = left[shared / (area[best] + area[left] - shared) <= max_overlap]
    return kept
