"""Top-down 2D pose by RTMPose, batched over images; the same numbers as mmpose's `inference_topdown`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from etl.models.auglift import openmmlab
from etl.models.auglift.rtmdet import Image, Images
from etl.models.engines.network import Estimator, Forward
from etl.models.engines.torch_runtime import TorchContext
from etl.models.geometry import Size
from schemas.skeletons import COCO_17

Floats = NDArray[np.float32]

# Index of each joint in a mirrored image.
FLIP: Final = tuple(
    dict(zip(COCO_17.left + COCO_17.right, COCO_17.right + COCO_17.left, strict=True)).get(i, i) for i in range(17)
)


@dataclass(frozen=True)
class Region:
    """The part of the image that a crop shows.

    Parameters
    ----------
    center, scale : (2,) float32
        Its centre, and its width and height, in image px: the box padded, then grown to the input's aspect.
    matrix : (3, 3) float64
        Map from image px to crop px. mmpose's: the region's centre falls on half the crop's size, half a crop pixel
        right of and below the crop's own centre; `to_image` goes back the same way.
    size : (int, int)
        Width and height of the crop.
    """

    center: Floats
    scale: Floats
    matrix: NDArray[np.float64]
    size: Size

    @classmethod
    def of_box(cls, box: Floats, size: Size, padding: float = 1.25) -> Region:
        """Region of a box x1, y1, x2, y2 in px."""
        from mmpose.datasets.transforms import TopdownAffine
        from mmpose.structures.bbox import bbox_xyxy2cs, get_warp_matrix

        centers, scales = bbox_xyxy2cs(box[None], padding=padding)
        center, scale = centers[0], TopdownAffine._fix_aspect_ratio(scales, size[0] / size[1])[0]
        matrix = np.eye(3)
        matrix[:2] = get_warp_matrix(center, scale, 0.0, output_size=size)
        return cls(center, scale, matrix, size)

    def crop(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop (height, width, 3) uint8, bilinear, black outside the image."""
        return cv2.warpAffine(image, self.matrix[:2], self.size, flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)

    def to_image(self, points: Floats) -> Floats:
        """Image px (..., 2) of crop px."""
        found = points / np.asarray(self.size) * self.scale + self.center - 0.5 * self.scale
        return found.astype(np.float32)


@dataclass(frozen=True)
class Person:
    """The pose of one box.

    Parameters
    ----------
    keypoints : (17, 2) float32
        COCO_17, image px.
    scores : (17,) float32
        The smaller of the two SimCC maxima of each joint; may exceed 1.
    region : Region
        Of the crop.
    features : (C, h, w) float tensor
        Last stage of the backbone for the unflipped crop, on the device.
    """

    keypoints: Floats
    scores: Floats
    region: Region
    features: torch.Tensor


class RTMPoseNetwork(openmmlab.FixedSizeNetwork):
    """From crops to RTMPose's last backbone features (N, C, h, w) and SimCC scores of x and y (N, 17, bins)."""

    def __init__(self, model: torch.nn.Module, size: Size) -> None:
        super().__init__(model, size, ("features", "simcc_x", "simcc_y"))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Raw outputs for RGB crops (N, H, W, 3) uint8."""
        features = self.features(images)[-1]
        with torch.autocast(images.device.type, enabled=False):
            x, y = self.model.head((features.float(),))
        return features, x, y


class PoseEstimator(Estimator[tuple[Image, Floats], Person]):
    """RTMPose over many boxes of many images.

    Parameters
    ----------
    model : torch.nn.Module
        A top-down estimator of mmpose with an RTMCC head.
    config : mmengine.Config
        Of the model.
    context : TorchContext
        Device and precision; the model is moved there.
    forward : Forward, optional
        What runs the `RTMPoseNetwork`; torch by default.
    batch : int
        Largest number of boxes at a time.
    flip_test : bool
        Average with the output for the mirrored crop, as published.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: Any,
        context: TorchContext,
        *,
        forward: Forward | None = None,
        batch: int = 32,
        flip_test: bool = True,
    ) -> None:
        self.size = openmmlab.input_size(config)
        self.model: Any = model.to(context.device)
        super().__init__(lambda: RTMPoseNetwork(model, self.size), context, forward, batch)
        self.flip_test = flip_test
        pipeline = config.test_dataloader.dataset.pipeline
        self.padding = float(openmmlab.step(pipeline, "GetBBoxCenterScale").get("padding", 1.25))
        self.channels = int(config.model.head.in_channels)
        grid_width, grid_height = config.model.head.in_featuremap_size
        self.grid: Size = (grid_width, grid_height)

    def estimate(self, images: Images, boxes: Sequence[Floats]) -> list[list[Person]]:
        """Poses of each image, one for each of its `boxes` (P, 4) float32 px; none for an image without boxes.

        Raises
        ------
        ModelError
            When a single box doesn't fit into memory.
        """
        requests = [(image, box) for image, rows in zip(images, boxes, strict=True) for box in rows]
        found: Iterator[Person] = iter(self.run(requests))
        return [[next(found) for _ in rows] for rows in boxes]

    def run_batch(self, requests: Sequence[tuple[Image, Floats]]) -> list[Person]:
        """See `Estimator.run_batch`."""
        regions = [Region.of_box(np.asarray(box, np.float32), self.size, self.padding) for _, box in requests]
        crops = np.stack([region.crop(image) for region, (image, _) in zip(regions, requests, strict=True)])
        sent = self.context.send(crops)
        features, *simcc = self.forward(sent)
        mirrored = self.forward(sent.flip(2))[1:] if self.flip_test else None
        with self.context.inference(exact=True):
            found = self._decode(simcc, mirrored)
        return [
            Person(region.to_image(keypoints[0]), scores[0], region, own)
            for region, (keypoints, scores), own in zip(regions, found, features, strict=True)
        ]

    def _decode(
        self, simcc: Sequence[torch.Tensor], mirrored: Sequence[torch.Tensor] | None
    ) -> list[tuple[Floats, Floats]]:
        """Crop px (1, 17, 2) and scores (1, 17) of each crop, by mmpose's own decoder."""
        from mmpose.models.utils.tta import flip_vectors

        if mirrored is not None:
            back = flip_vectors(*mirrored, flip_indices=list(FLIP))
            simcc = [(axis + other) * 0.5 for axis, other in zip(simcc, back, strict=True)]
        return [(found.keypoints, found.keypoint_scores) for found in self.model.head.decode(tuple(simcc))]
