"""A stand-in for a GPU under the set `auglift`: all of the host's work in earnest, only the device's is replaced.

The three networks' calls return at once and keep the device busy for a set time; reading an answer waits until the
device has done what it was given before. Frames sent to it are copied once, as into pinned memory, and become tensors
without values (torch's device "meta"). Letterbox, crops, resizing and sampling run on images of a few pixels, which
costs the host what launching them on a GPU costs. Detections and joints have values, so that the host chooses and
describes people as it would.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from etl.models.auglift import build as parts
from etl.models.auglift import catalog, depth_anything, model_set, rtmdet, rtmpose
from etl.models.auglift.depth_anything import DepthEstimator
from etl.models.auglift.model_set import AugliftModels
from etl.models.auglift.rtmdet import PersonDetector
from etl.models.auglift.rtmpose import PoseEstimator
from etl.models.auglift.settings import AugliftSettings
from etl.models.engines.network import Forward
from etl.models.engines.torch_runtime import TorchContext

# Shares of the device's time; roughly those of RTMDet-m, RTMPose-l with its flip test, and Depth Anything V2 Large.
SHARES = {"detector": 0.1, "pose": 0.1, "depth": 0.8}
BOX = (0.3, 0.2, 0.7, 0.9)  # of the only person, in the letterbox
NOBODY = -10.0  # logit


def launch_only() -> None:
    """Let all work on images, which is the device's, cost this process no more than its launch."""
    tiny, few = torch.zeros(8, 8, 3, dtype=torch.uint8), (8, 8)
    plane = torch.zeros(1, 8, 8)
    letterbox, crop, resize, back, sample = (
        rtmdet.letterbox_on_device,
        rtmpose.crop_on_device,
        depth_anything.resize_on_device,
        depth_anything.resize_back,
        model_set.sample,
    )

    def shape_of(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def letterbox_on_device(image: torch.Tensor, size: Any) -> torch.Tensor:
        letterbox(tiny, few)
        return shape_of(size[1], size[0], 3, dtype=torch.uint8)

    def crop_on_device(image: torch.Tensor, to_image: torch.Tensor, size: Any) -> torch.Tensor:
        crop(tiny, torch.zeros(1, 2, 3), few)
        return shape_of(len(to_image), size[1], size[0], 3, dtype=torch.uint8)

    def resize_on_device(image: torch.Tensor, size: Any, processing: Any) -> torch.Tensor:
        resize(tiny, few, processing)
        return shape_of(size[1], size[0], 3)

    def resize_back(depth: torch.Tensor, size: Any, processing: Any) -> torch.Tensor:
        back(plane, few, processing)
        return shape_of(len(depth), size[1], size[0])

    def sampled(features: torch.Tensor, cells: torch.Tensor, *how: Any, **options: Any) -> torch.Tensor:
        sample(plane[None], torch.zeros(1, 17, 2), *how, **options)
        return shape_of(len(features), 17, features.shape[1])

    rtmdet.letterbox_on_device = letterbox_on_device
    rtmpose.crop_on_device = crop_on_device
    depth_anything.resize_on_device = resize_on_device
    depth_anything.resize_back = resize_back
    model_set.sample = sampled


class Clock:
    """When a device will have done what it was given; work is done in the order given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Forget all work."""
        self._first = self._done = self._busy = 0.0
        self.counts = Counter[str]()

    def launch(self, seconds: float) -> None:
        """Give the device work; returns at once."""
        with self._lock:
            now = time.perf_counter()
            self._first = self._first or now
            self._done = max(self._done, now) + seconds
            self._busy += seconds
            self.counts["launches"] += 1

    def wait(self) -> None:
        """Wait until all work given so far is done."""
        with self._lock:
            done = self._done
        time.sleep(max(0.0, done - time.perf_counter()))

    @property
    def share(self) -> float:
        """Share of the time, from the first work to the end of the last, in which the device was busy."""
        return self._busy / (self._done - self._first)


CLOCK = Clock()
"""Of the process's only device."""


def restart() -> None:
    """Forget all work of this process's device."""
    CLOCK.restart()


def busy_share() -> float:
    """See `Clock.share`; of this process's device."""
    return CLOCK.share


@dataclass(frozen=True)
class StandIn(TorchContext):
    """A context whose device is a clock.

    Parameters
    ----------
    values : bool
        Whether tensors on the device have values (computed by the CPU), for tests; else they have shapes only.
    """

    clock: Clock = CLOCK
    values: bool = False

    @property
    def on_gpu(self) -> bool:
        """It stands for one."""
        return True

    def send(self, array: np.ndarray) -> torch.Tensor:
        """Copy the array, as into pinned memory."""
        self.clock.counts["sends"] += 1
        copied = torch.from_numpy(np.array(array))
        return copied if self.values else copied.to("meta")

    def fetch(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Wait for the device; tensors without values become fours."""
        self.clock.counts["waits"] += 1
        self.clock.wait()
        return [
            np.full(t.shape, 4, torch.empty(0, dtype=t.dtype).numpy().dtype) if t.is_meta else t.contiguous().numpy()
            for t in tensors
        ]


def build(rate: float, **options: Any) -> AugliftModels:
    """The default networks of the set on a device that does `rate` frames a second.

    Parameters
    ----------
    rate : float
        Of all three networks together, for one person a frame; 0 for a device that answers at once.
    options : AugliftSettings
        Other options.
    """
    launch_only()
    settings = AugliftSettings(weights="random", device="cpu", inputs="device", **options)
    context = StandIn(torch.device("cpu"))
    seconds = {part: share / rate if rate else 0.0 for part, share in SHARES.items()}
    network, config = parts._detector(settings, None)
    detector = PersonDetector(network.model, config, context, batch=settings.detector_batch)
    detector.forward = _detections(detector, context.clock, seconds["detector"])
    network, config = parts._pose(settings, None)
    pose = PoseEstimator(network.model, config, context, batch=settings.pose_batch)
    pose.forward = _poses(pose, context.clock, seconds["pose"] / 2)  # twice, because of the flip test
    depth_config = catalog.depth_config(catalog.find(catalog.DEPTH_ESTIMATORS, settings.depth))
    depth = DepthEstimator(
        None,
        context,
        config=depth_config,
        forward=_depths(context.clock, seconds["depth"], depth_config.fusion_hidden_size, depth_config.patch_size),
        batch=settings.depth_batch,
        processing=settings.processing,
    )
    return AugliftModels(settings, detector, pose, depth, {})


def _detections(detector: PersonDetector, clock: Clock, seconds: float) -> Forward:
    """Answers in which twenty priors have found the one person."""
    width, height = detector.size
    levels = [(height // stride, width // stride) for stride in (8, 16, 32)]
    priors = torch.from_numpy(detector._priors)
    box = torch.tensor(BOX) * torch.tensor([width, height, width, height])
    distances = torch.cat([priors - box[:2], box[2:] - priors], 1)
    nearest = (priors - (box[:2] + box[2:]) / 2).norm(dim=1).argsort()[:20]
    scores = torch.full((len(priors),), NOBODY)
    scores[nearest] = torch.linspace(2, 0, 20)
    sizes = [rows * columns for rows, columns in levels]
    grids = list(zip(scores.split(sizes), distances.split(sizes), levels, strict=True))

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        clock.launch(seconds * len(images))
        return (
            *(own.view(1, 1, *grid).expand(len(images), -1, -1, -1) for own, _, grid in grids),
            *(own.T.reshape(1, 4, *grid).expand(len(images), -1, -1, -1) for _, own, grid in grids),
        )

    return forward


def _poses(pose: PoseEstimator, clock: Clock, seconds: float) -> Forward:
    """Answers whose joints lie on a line from the top to the bottom of the crop; features without values."""
    width, height = pose.size
    split = int(pose.model.head.decoder.simcc_split_ratio)
    x, y = torch.zeros(17, width * split), torch.zeros(17, height * split)
    x[torch.arange(17), torch.linspace(0.4, 0.6, 17).mul(width * split).long()] = 0.9
    y[torch.arange(17), torch.linspace(0.1, 0.9, 17).mul(height * split).long()] = 0.8
    columns, rows = pose.grid

    def forward(crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
        clock.launch(seconds * len(crops))
        features = torch.empty(len(crops), pose.channels, rows, columns, device="meta")
        return features, x.expand(len(crops), -1, -1), y.expand(len(crops), -1, -1)

    return forward


def _depths(clock: Clock, seconds: float, channels: int, patch: int) -> Forward:
    """Answers without values."""

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        clock.launch(seconds * len(images))
        count, height, width, _ = images.shape
        features = torch.empty(count, channels, height // patch, width // patch, device="meta")
        return torch.empty(count, height, width, device="meta"), features

    return forward
