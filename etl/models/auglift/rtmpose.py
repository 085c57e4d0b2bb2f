"""Top-down 2D pose by RTMPose, batched over images; the same numbers as mmpose's `inference_topdown`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from etl.models.auglift import openmmlab
from etl.models.auglift.rtmdet import Image, Images
from etl.models.engines.network import Estimator, Forward
from etl.models.engines.torch_runtime import TorchContext
from etl.models.geometry import Size, invert
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


def crop_on_device(image: torch.Tensor, to_image: torch.Tensor, size: Size) -> torch.Tensor:
    """Crop as `Region.crop` does, by torch on the image's device; within one level of 255 of OpenCV's.

    Parameters
    ----------
    image : (H, W, 3) uint8
        The image.
    to_image : (P, 2, 3) float32
        Map of each crop from crop px to image px.
    size : (int, int)
        Width and height of the crops.

    Returns
    -------
    (P, height, width, 3) uint8
    """
    height, width = image.shape[:2]
    column = torch.arange(size[0], device=image.device)
    row = torch.arange(size[1], device=image.device)[:, None]

    def place(axis: int, length: int) -> torch.Tensor:
        a, b, c = to_image[:, axis, :, None, None].unbind(1)
        # grid_sample wants the centres of the first and the last pixel at -1 and 1.
        return (a * column + b * row + c) * (2 / (length - 1)) - 1

    grid = torch.stack([place(0, width), place(1, height)], -1)
    source = image.permute(2, 0, 1)[None].float().expand(len(to_image), -1, -1, -1)
    crops = torch.nn.functional.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return crops.round().to(torch.uint8).permute(0, 2, 3, 1)


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


class Output(NamedTuple):
    """Output of the network for one crop: features (C, h, w), and SimCC scores of x and y (17, bins), on the device."""

    region: Region
    features: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor


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


class PoseEstimator(Estimator[tuple[Image, Floats], Output]):
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
        self._flip = torch.tensor(FLIP, device=context.device)
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
        found: Iterator[Person] = iter(self._people(self.run(requests)) if requests else ())
        return [[next(found) for _ in rows] for rows in boxes]

    def run_batch(self, requests: Sequence[tuple[Image, Floats]]) -> list[Output]:
        """See `Estimator.run_batch`."""
        regions = [Region.of_box(np.asarray(box, np.float32), self.size, self.padding) for _, box in requests]
        crops = self._inputs([image for image, _ in requests], regions)
        features, *simcc = self.forward(crops)
        if self.flip_test:
            with torch.inference_mode():
                mirrored = crops.flip(2)
            _, x, y = self.forward(mirrored)
            with self.context.inference(exact=True):
                back = x.index_select(1, self._flip).flip(-1), y.index_select(1, self._flip)
                simcc = [(axis + other) * 0.5 for axis, other in zip(simcc, back, strict=True)]
        return [Output(*rows) for rows in zip(regions, features, *simcc, strict=True)]

    def _inputs(self, images: Images, regions: Sequence[Region]) -> torch.Tensor:
        """Crops (N, height, width, 3) uint8 of the images on the device."""
        if not isinstance(images[0], torch.Tensor):
            return self.context.send(np.stack([region.crop(i) for i, region in zip(images, regions, strict=True)]))
        to_image = np.stack([invert(region.matrix)[:2] for region in regions]).astype(np.float32)
        with torch.inference_mode():
            maps, crops, first = self.context.send(to_image), [], 0
            for _, same in itertools.groupby(images, key=id):  # an image's people follow each other
                group = list(same)
                crops.append(crop_on_device(group[0], maps[first : first + len(group)], self.size))
                first += len(group)
            return torch.cat(crops)

    def _people(self, outputs: Sequence[Output]) -> list[Person]:
        """Poses of the crops, by mmpose's own decoder."""
        simcc = self.context.fetch([torch.stack([out.x for out in outputs]), torch.stack([out.y for out in outputs])])
        keypoints, scores = self.model.head.decoder.decode(*simcc)
        return [
            Person(out.region.to_image(joints), own, out.region, out.features)
            for out, joints, own in zip(outputs, keypoints, scores, strict=True)
        ]
