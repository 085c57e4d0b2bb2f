"""Metric depth by Depth Anything V2 through transformers, batched, and read on the device.

Two ways lead to the network's input and back, and they differ by up to half a pixel of the input:

``transformers``
    The image processor of the published folders: scale as little as possible so that one side is 518 and the other
    keeps the ratio to the nearest multiple of 14; antialiased bicubic in uint8; bicubic back, edges on edges.
``authors``
    The authors' own repository, which the published results used: the shorter side becomes 518; cubic without
    antialiasing in float; bilinear back, corner pixels' centres on corner pixels' centres.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from etl.errors import MediaError
from etl.models.auglift.catalog import Processing
from etl.models.auglift.rtmdet import Image, Images
from etl.models.base import ArrayDepth, DepthField, PartialDepth
from etl.models.engines.network import Estimator, Forward, Network
from etl.models.engines.torch_runtime import TorchContext
from etl.models.geometry import Size

Floats = NDArray[np.float32]

SIDE: Final = 518
MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
# The neck's level at the resolution of the patches: the third of four, before fusion.
LEVEL: Final = 2
# Of the long side over the short one. At 50, one side would have no patch, or the input a hundred thousand patches.
LONGEST: Final = 10


def input_size(image_size: Size, processing: Processing = "transformers", patch: int = 14, side: int = SIDE) -> Size:
    """Width and height of the network's input for an image.

    Parameters
    ----------
    image_size : (int, int)
        Width and height in px.
    processing : {"transformers", "authors"}
        Whose rule; they differ for images whose sides are on both sides of `side`, and for small ones.
    patch, side : int
        Sides are multiples of `patch`; `side` is aimed at.

    Raises
    ------
    MediaError
        When the image is more than `LONGEST` times as long as wide.
    """
    if max(image_size) > LONGEST * min(image_size):
        raise MediaError(
            f"An image for Depth Anything must be at most {LONGEST} times as long as wide.",
            f"the image has {image_size[0]} x {image_size[1]} px",
            "Crop the image.",
        )
    scales = [side / length for length in image_size]
    # transformers: the scale nearest to 1, the height's where both are as near.
    scale = max(scales) if processing == "authors" else min(reversed(scales), key=lambda s: abs(1 - s))
    sizes = [round(scale * length / patch) * patch for length in image_size]
    if processing == "authors":
        sizes = [max(size, math.ceil(side / patch) * patch) for size in sizes]
    return sizes[0], sizes[1]


def resize(image: NDArray[np.uint8], size: Size, processing: Processing) -> torch.Tensor:
    """Resize an RGB image to (height, width, 3): uint8, or float32 in [0, 255] for ``authors``."""
    if processing == "authors":
        return torch.from_numpy(cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_CUBIC))
    return torch.from_numpy(np.array(Picture.fromarray(image).resize(size, Picture.Resampling.BICUBIC)))


def resize_on_device(image: torch.Tensor, size: Size, processing: Processing) -> torch.Tensor:
    """Resize as `resize` does, by torch on the image's device; float32 in [0, 255].

    ``authors`` agrees with OpenCV to 0.03 levels. For ``transformers``, Pillow also rounds and clips between its two
    passes: of noise, 98.9 % of the values agree to one level of 255. The others are beside edges from black to white,
    and differ by up to 24 levels.
    """
    bicubic = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None].float(),
        size=(size[1], size[0]),
        mode="bicubic",
        align_corners=False,
        antialias=processing == "transformers",
    )[0].permute(1, 2, 0)
    return bicubic.round().clamp(0, 255) if processing == "transformers" else bicubic


def resize_back(depth: torch.Tensor, image_size: Size, processing: Processing) -> torch.Tensor:
    """Resize depth maps (N, h, w) to the image's size: (N, height, width) float32."""
    mode: dict[str, Any] = {"mode": "bicubic", "align_corners": False}
    if processing == "authors":
        mode = {"mode": "bilinear", "align_corners": True}
    return torch.nn.functional.interpolate(depth.float()[:, None], size=(image_size[1], image_size[0]), **mode)[:, 0]


@dataclass(frozen=True)
class TorchDepth:
    """A depth map on the device.

    Parameters
    ----------
    values : (H, W) float32 tensor
        Metres.
    features : (C, h, w) float tensor
        The neck's third level, which covers the whole image.
    context : TorchContext
        Of the device.
    """

    values: torch.Tensor
    features: torch.Tensor
    context: TorchContext

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def joint_depth(self) -> None:
        """The network knows no joints."""

    @property
    def grid(self) -> Size:
        """Width and height of `features` in cells."""
        return self.features.shape[2], self.features.shape[1]

    @staticmethod
    def copy_parts(depths: Sequence[TorchDepth], parts: Sequence[tuple[slice, slice]]) -> list[DepthField]:
        """See `etl.models.base.DeviceDepth.copy_parts`."""
        if not depths[0].context.on_gpu:
            return [ArrayDepth(depth.to_array()) for depth in depths]
        pieces = [depth.values[part] for depth, part in zip(depths, parts, strict=True)]
        return [
            PartialDepth(piece, part[1].start, part[0].start, depth.shape)
            for depth, part, piece in zip(depths, parts, depths[0].context.fetch(pieces), strict=True)
        ]

    def windows(self, centers: NDArray[np.integer], radius: int) -> Floats:
        """See `etl.models.base.DepthField.windows`."""
        return ArrayDepth(self.to_array()).windows(centers, radius)

    def at(self, pixels: NDArray[np.intp]) -> Floats:
        """See `etl.models.base.DepthField.at`."""
        return ArrayDepth(self.to_array()).at(pixels)

    def to_array(self) -> Floats:
        """The whole map (H, W) float32 in metres, on the host."""
        (whole,) = self.context.fetch([self.values])
        return whole


class DepthAnythingNetwork(Network):
    """From resized images to depth (N, H, W) in metres and the neck's third level (N, C, H / 14, W / 14).

    The steps are those of transformers' forward, which keeps the level to itself, takes the size of its output for a
    constant when it is exported, and under autocast would round depth: 20 m in bfloat16 have steps of 6 cm.

    Parameters
    ----------
    model : transformers.DepthAnythingForDepthEstimation
        Metric.
    side : int
        Of the example.
    """

    def __init__(self, model: Any, side: int = SIDE) -> None:
        super().__init__()
        self.model, self.side = model, side
        self.patch = int(model.config.patch_size)
        self.axes = {
            "images": {0: "batch", 1: "height", 2: "width"},
            "depth": {0: "batch", 1: "height", 2: "width"},
            "features": {0: "batch", 2: "rows", 3: "columns"},
        }
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None] * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None] * 255, persistent=False)

    def example(self, batch: int) -> torch.Tensor:
        """Noise; not square, so that no side can be taken for the other."""
        return torch.rand(batch, self.side, self.side - 2 * self.patch, 3) * 255

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Depth and features of RGB images (N, H, W, 3) in [0, 255], whose sides are multiples of the patch."""
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        height, width = x.shape[2:]
        maps = self.model.backbone.forward_with_filtered_kwargs(x).feature_maps
        neck, head = self.model.neck, self.model.head
        maps = neck.reassemble_stage(maps, height // self.patch, width // self.patch)
        levels = [convolution(level) for convolution, level in zip(neck.convs, maps, strict=True)]
        fused = neck.fusion_stage(levels)[head.head_in_index]
        with torch.autocast(images.device.type, enabled=False):
            y = head.conv1(fused.float())
            y = torch.nn.functional.interpolate(y, size=(height, width), mode="bilinear", align_corners=True)
            y = head.conv3(head.activation1(head.conv2(y)))
            return (head.activation2(y) * head.max_depth)[:, 0], levels[LEVEL]


class DepthEstimator(Estimator[tuple[Image, Size], TorchDepth]):
    """Depth Anything V2 over many images; images of one input size share a batch.

    Parameters
    ----------
    model : transformers.DepthAnythingForDepthEstimation or None
        Metric. None if `forward` runs an exported network, so that torch doesn't hold the weights as well.
    context : TorchContext
        Device and precision; the model is moved there.
    config : transformers.DepthAnythingConfig, optional
        The model's; needed without a model.
    forward : Forward, optional
        What runs the `DepthAnythingNetwork`; torch by default.
    batch : int
        Largest number of images at a time.
    processing : {"transformers", "authors"}
        See the module.
    side : int
        Aimed-at length of the input's side.
    """

    def __init__(
        self,
        model: Any | None,
        context: TorchContext,
        *,
        config: Any = None,
        forward: Forward | None = None,
        batch: int = 8,
        processing: Processing = "transformers",
        side: int = SIDE,
    ) -> None:
        config = model.config if model is not None else config
        self.model = model
        super().__init__(lambda: DepthAnythingNetwork(model), context, forward, batch)
        self.processing, self.side = processing, side
        self.patch = int(config.patch_size)
        self.channels = int(config.fusion_hidden_size)
        # Pillow resizes on one core, and lets others run meanwhile.
        self._threads = ThreadPoolExecutor(max(1, torch.get_num_threads()), "resize")

    def estimate(self, images: Images) -> list[TorchDepth]:
        """Depth of each RGB image (H, W, 3) uint8, with the features for embeddings."""
        groups: dict[Size, list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            size = (image.shape[1], image.shape[0])
            groups[input_size(size, self.processing, self.patch, self.side)].append(i)
        found: dict[int, TorchDepth] = {}
        for size, rows in groups.items():
            requests = [(images[i], size) for i in rows]
            found.update(zip(rows, self.run(requests), strict=True))
        return [found[i] for i in range(len(images))]

    def run_batch(self, requests: Sequence[tuple[Image, Size]]) -> list[TorchDepth]:
        """See `Estimator.run_batch`."""
        depth, features = self.forward(self._inputs(requests))
        with torch.inference_mode():
            maps = [
                resize_back(one[None], (image.shape[1], image.shape[0]), self.processing)[0]
                for one, (image, _) in zip(depth, requests, strict=True)
            ]
        return [TorchDepth(values, own, self.context) for values, own in zip(maps, features, strict=True)]

    def _inputs(self, requests: Sequence[tuple[Image, Size]]) -> torch.Tensor:
        """Images at the network's input size (N, height, width, 3) in [0, 255], on the device."""
        if isinstance(requests[0][0], torch.Tensor):
            with torch.inference_mode():
                return torch.stack([resize_on_device(image, size, self.processing) for image, size in requests])
        resized = self._threads.map(lambda r: resize(r[0], r[1], self.processing), requests)
        return self.context.send(torch.stack(list(resized)).numpy())
