"""The model set `auglift`: RTMDet, RTMPose and Depth Anything V2, which the published results rest on.

Calls of the three networks are batched. On a GPU each frame is sent once, the networks' inputs are made there, and
maps stay there: what the host needs of a batch comes back after each network, with one wait.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from etl.models.auglift import build as auglift_build
from etl.models.auglift import files as auglift_files
from etl.models.auglift import identity as auglift_identity
from etl.models.auglift.depth_anything import DepthEstimator, TorchDepth
from etl.models.auglift.embedding import (
    Matrix,
    auglift_crop_to_grid,
    auglift_image_to_grid,
    crop_to_grid,
    image_to_grid,
    pooled,
    sample,
)
from etl.models.auglift.pooling import px_to_pooled
from etl.models.auglift.rtmdet import Images, PersonDetector
from etl.models.auglift.rtmpose import PoseEstimator, Region
from etl.models.auglift.settings import AugliftSettings, parse
from etl.models.base import DepthField, Detections, Embeddings, Floats, Frame, PooledMap, Poses
from etl.models.engines.torch_runtime import answers
from etl.models.files.weights import known_sha256
from etl.models.geometry import Size, apply


def build(options: AugliftSettings | Mapping[str, Any] | None = None, cache: Path | None = None) -> AugliftModels:
    """Build the set.

    Parameters
    ----------
    options : AugliftSettings or mapping, optional
        By name. Here a runtime ``auto`` is torch, and inputs ``auto`` are made on the host: a run replaces both before
        (`etl.models.auglift.runtimes`).
    cache : Path, optional
        Folder of the model files; the user's cache by default.

    Raises
    ------
    ConfigError
        When an option is unknown, or the device is missing.
    ModelError
        When a package or a file is missing or damaged. Weights are never drawn in its place.
    """
    settings = parse(options)
    # All files are checked before any network is built.
    files = auglift_files.paths(settings, cache)
    return AugliftModels(
        settings,
        auglift_build.build_detector(settings, files.get("detector"), cache),
        auglift_build.build_pose(settings, files.get("pose"), cache),
        auglift_build.build_depth(settings, files.get("depth"), cache),
        files,
    )


class AugliftModels:
    """The set; see `etl.models.base.ModelSet`.

    Parameters
    ----------
    settings : AugliftSettings
        Of the set.
    detector, pose, depth
        The networks.
    files : mapping of str to Path
        Their checkpoints; empty for random weights.
    """

    def __init__(
        self,
        settings: AugliftSettings,
        detector: PersonDetector,
        pose: PoseEstimator,
        depth: DepthEstimator,
        files: Mapping[str, Path],
    ) -> None:
        self.settings, self.detector, self.pose, self.depth = settings, detector, pose, depth
        # Hashed again: the plan of a run relies on noted hashes.
        hashes = {part: known_sha256(path, afresh=True) for part, path in files.items()}
        self._weights = auglift_identity.weights_of(settings, files, hashes)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a value; see `etl.models.auglift.identity.identity`."""
        return auglift_identity.identity(self.settings, self._weights, grid=self.pose.grid, patch=self.depth.patch)

    @property
    def channels(self) -> tuple[int, int]:
        """Width of the pose and of the depth embeddings."""
        return self.pose.channels, self.depth.channels

    @property
    def on_device(self) -> bool:
        """See `etl.models.base.OnDevice`."""
        return any(part.context.on_gpu for part in (self.detector, self.pose, self.depth))

    def device_works(self) -> bool:
        """See `etl.models.base.OnDevice`."""
        return all(answers(part.context.device) for part in (self.detector, self.pose, self.depth))

    @property
    def halvings(self) -> dict[str, int]:
        """How often the batch of each network was halved because memory ran out."""
        return {name: getattr(self, name).batches.halvings for name in ("detector", "pose", "depth")}

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """People by score; see `ModelSet.detect`. Without people the result is empty, never the whole image."""
        return [Detections(boxes, scores) for boxes, scores in self.detector.detect(self._images(frames))]

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        """The pose of every box that has an area; see `ModelSet.estimate_poses`."""
        usable = [_has_area(d.boxes) for d in detections]
        boxes = [d.boxes[rows] for d, rows in zip(detections, usable, strict=True)]
        scores = [d.scores[rows] for d, rows in zip(detections, usable, strict=True)]
        found = self.pose.estimate(self._images(frames), boxes)
        return [
            Poses(
                np.array([p.keypoints for p in people], np.float32).reshape(-1, 17, 2),
                np.array([p.scores for p in people], np.float32).reshape(-1, 17),
                own_boxes,
                own_scores,
                {"features": [p.features for p in people], "region": [p.region for p in people]},
            )
            for people, own_boxes, own_scores in zip(found, boxes, scores, strict=True)
        ]

    def estimate_depth(self, frames: Sequence[Frame], poses: Sequence[Poses]) -> list[DepthField]:
        """Depth maps on the device, independent of the people; see `ModelSet.estimate_depth`."""
        return list(self.depth.estimate(self._images(frames)))

    def embed(self, poses: Sequence[Poses], depths: Sequence[DepthField], joints: Sequence[Floats]) -> list[Embeddings]:
        """Features at the joints; see `ModelSet.embed`."""
        own = [depth for depth in depths if isinstance(depth, TorchDepth)]
        pose_maps = [features for people in poses for features in people.own["features"]]
        crops = [
            self._crop_map(region, box)
            for people in poses
            for region, box in zip(people.own["region"], people.boxes, strict=True)
        ]
        depth_maps = [depth.features for depth, people in zip(own, poses, strict=True) for _ in range(len(people))]
        images = [self._image_map(depth) for depth, people in zip(own, poses, strict=True) for _ in range(len(people))]
        points = [xy for people in joints for xy in people]
        pose, depth = self._sample([(pose_maps, crops, points), (depth_maps, images, points)])
        ends = np.cumsum([len(people) for people in poses])
        return [
            Embeddings(
                pose[end - len(people) : end],
                depth[end - len(people) : end],
                {"pose": self.pose.grid, "depth": field.grid},
            )
            for end, people, field in zip(ends.tolist(), poses, own, strict=True)
        ]

    @property
    def map_layers(self) -> Mapping[str, str]:
        """See `etl.models.base.MapSource.map_layers`."""
        return auglift_identity.LAYERS

    def pool_maps(
        self, poses: Sequence[Poses], depths: Sequence[DepthField], sizes: Mapping[str, Size]
    ) -> list[Mapping[str, PooledMap]]:
        """See `etl.models.base.MapSource.pool_maps`; averaged on the device, and placed by the true geometry."""
        averaged, places = list[torch.Tensor](), list[tuple[NDArray[np.float64], Size]]()
        for people, depth in zip(poses, depths, strict=True):
            assert isinstance(depth, TorchDepth)
            regions: list[Region] = people.own["region"]
            crops = [crop_to_grid(region.matrix, region.size, self.pose.grid) for region in regions]
            image = image_to_grid((depth.shape[1], depth.shape[0]), depth.grid)
            for features, matrices, size in (
                (torch.stack(people.own["features"]), crops, sizes["pose"]),
                (depth.features.expand(len(people), -1, -1, -1), [image] * len(people), sizes["depth"]),
            ):
                grid = features.shape[-1], features.shape[-2]
                averaged.append(pooled(features, size))
                places.append((np.stack([px_to_pooled(matrix, grid, size) for matrix in matrices]), grid))
        maps = [
            PooledMap(values, *place) for values, place in zip(self.pose.context.fetch(averaged), places, strict=True)
        ]
        return [{"pose": pose, "depth": depth} for pose, depth in zip(maps[::2], maps[1::2], strict=True)]

    def _images(self, frames: Sequence[Frame]) -> Images:
        """The frames' images: on the host, or on the device, where each is sent once."""
        if self.settings.inputs != "device":
            return [frame.image for frame in frames]
        for frame in frames:
            if "image" not in frame.own:
                frame.own["image"] = self.detector.context.send(frame.image)
        return [frame.own["image"] for frame in frames]

    def _crop_map(self, region: Region, box: Floats) -> Matrix:
        if self.settings.compat:
            return auglift_crop_to_grid(box, self.pose.grid)
        return crop_to_grid(region.matrix, region.size, self.pose.grid)

    def _image_map(self, depth: TorchDepth) -> Matrix:
        size = (depth.shape[1], depth.shape[0])
        return (auglift_image_to_grid if self.settings.compat else image_to_grid)(size, depth.grid)

    def _sample(
        self, streams: Sequence[tuple[Sequence[torch.Tensor], Sequence[Matrix], Sequence[Floats]]]
    ) -> list[NDArray[np.float16]]:
        """Features (P, 17, C) at the joints of P people in each stream, from a map (C, h, w) a person.

        A stream has a map, a matrix from image px to its cells, and joints (17, 2) px of each person. Maps of one shape
        share a call, and all streams are copied to the host with one wait.
        """
        context, how = self.pose.context, self.settings
        found, rows_of = list[torch.Tensor](), list[list[list[int]]]()
        for maps, to_grid, points in streams:
            groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for row, one in enumerate(maps):
                groups[tuple(one.shape)].append(row)
            rows_of.append(list(groups.values()))
            for rows in groups.values():
                cells = np.stack([apply(to_grid[row], points[row]) for row in rows])
                with torch.inference_mode():
                    features = torch.stack([maps[row] for row in rows]).float()
                    places = context.send(cells)
                    found.append(sample(features, places, how.sampling, how.window, snap=not how.compat).half())
        copies = iter(context.fetch(found))
        result = []
        for groups_of, width in zip(rows_of, self.channels, strict=True):
            values = np.zeros((sum(len(group) for group in groups_of), 17, width), np.float16)
            for group in groups_of:
                values[group] = next(copies)
            result.append(values)
        return result


def _has_area(boxes: Floats) -> NDArray[np.bool_]:
    """Which boxes (P, 4) are finite, with a width and a height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(np.isfinite(boxes).all(axis=1) & (sides > 0).all(axis=1), bool)
