"""Person detection by RTMDet, batched; the same numbers as mmdet's `inference_detector`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from etl.models.auglift import openmmlab
from etl.models.engines.network import Estimator, Forward
from etl.models.engines.torch_runtime import TorchContext
from etl.models.geometry import Size, letterbox_size

Image = NDArray[np.uint8]
Images = Sequence[Image]
People = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes (P, 4) in px and scores (P,)."""
PAD: int = 114
PERSON: int = 0


def letterbox(image: NDArray[np.uint8], size: Size) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Resize an image into `size` with its aspect kept; pad with grey at the right and at the bottom.

    Parameters
    ----------
    image : (H, W, 3) uint8
        Any order of channels.
    size : (int, int)
        Width and height of the network's input.

    Returns
    -------
    fitted : (height, width, 3) uint8
        Bilinear, as ``mmcv.imrescale``.
    scale : (float, float)
        Width and height of the resized part over the image's. RTMDet's boxes are edges (an image of width W spans
        [0, W]), so dividing by it gives image px, without a half-pixel shift.
    """
    height, width = image.shape[:2]
    fitted = letterbox_size((width, height), size)
    canvas = np.full((size[1], size[0], 3), PAD, np.uint8)
    canvas[: fitted[1], : fitted[0]] = cv2.resize(image, fitted, interpolation=cv2.INTER_LINEAR)
    return canvas, (fitted[0] / width, fitted[1] / height)


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


class PersonDetector(Estimator[Image, People]):
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
        self.min_score, self.max_overlap = min_score, max_overlap
        self.test_config = config.model.test_cfg.copy()
        # Suppression goes from high scores to low, so boxes below the final threshold change nothing.
        self.test_config.score_thr = max(self.test_config.score_thr, min_score)

    def detect(self, images: Images) -> list[People]:
        """Boxes (P, 4) float32 px and scores (P,) float32 of the people in RGB images, best first."""
        return self.run(images)

    def run_batch(self, images: Images) -> list[People]:
        """See `Estimator.run_batch`."""
        fitted, scales = zip(*(letterbox(image, self.size) for image in images), strict=True)
        outputs = self.forward(self.context.send(np.stack(fitted)))
        levels = len(outputs) // 2
        shape = (self.size[1], self.size[0])
        metas = [
            {"img_shape": shape, "ori_shape": image.shape[:2], "scale_factor": scale}
            for image, scale in zip(images, scales, strict=True)
        ]
        with self.context.inference(exact=True):
            found = self.model.bbox_head.predict_by_feat(
                list(outputs[:levels]),
                list(outputs[levels:]),
                batch_img_metas=metas,
                cfg=self.test_config,
                rescale=True,
            )
        return [self._choose(instances) for instances in found]

    def _choose(self, instances: Any) -> People:
        from mmpose.evaluation.functional import nms

        people = (instances.labels == PERSON) & (instances.scores > self.min_score)
        boxes = instances.bboxes[people].cpu().numpy().astype(np.float32, copy=False)
        scores = instances.scores[people].cpu().numpy().astype(np.float32, copy=False)
        kept = nms(np.concatenate([boxes, scores[:, None]], axis=1), self.max_overlap) if len(boxes) else []
        return boxes[kept].reshape(-1, 4), scores[kept]
