"""The rows of a partition while its frames are estimated: which belong to a frame, and what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.media.frames import DecodedFrame
from etl.models.base import Frame
from etl.stages.blocks.chain import FrameFeatures
from etl.stages.files import maps
from schemas import annotation, features
from schemas.camera import Camera
from schemas.features import Status


class EstimatedRows:
    """The rows of a feature dataset, being filled.

    Parameters
    ----------
    ds : xr.Dataset
        Of `schemas.features`, to be filled in place.
    annotated : xr.Dataset
        The annotation's rows, one for each of its own.
    uses_boxes : bool
        Whether annotated boxes decide who is who.
    keeper : maps.Keeper, optional
        Gathers the feature maps.
    """

    def __init__(
        self, ds: xr.Dataset, annotated: xr.Dataset, uses_boxes: bool, keeper: maps.Keeper | None = None
    ) -> None:
        self.ds, self.keeper = ds, keeper
        # An array each, since looking one up in a dataset takes longer than filling in its row.
        self.arrays = {name: ds[name].values for name in (*features.VARIABLES, *features.EMBEDDINGS) if name in ds}
        self.key = annotation.key_of(annotated)
        self.camera = annotation.camera_of(annotated)
        self.reasons: dict[int, str] = {}
        self.grids: dict[str, set[tuple[int, int]]] = {}
        self.rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(annotated["frame_number"].values.tolist()):
            self.rows_of.setdefault(number, []).append(row)
        self._boxes: NDArray[np.float32] | None = None
        if uses_boxes and annotation.has_ground_truth(annotated):
            xy = annotated["keypoints_2d"].values
            # A person whose joints are unknown has a box of NaN, which nothing overlaps.
            finite = np.isfinite(xy).all(-1, keepdims=True)
            low, high = np.where(finite, xy, np.inf).min(1), np.where(finite, xy, -np.inf).max(1)
            boxes = np.concatenate([low, high], axis=1)
            self._boxes = np.where(np.isfinite(boxes), boxes, np.nan).astype(np.float32)

    def boxes(self, number: int) -> NDArray[np.float32] | None:
        """Boxes of the annotated people of a frame, where they matter."""
        return None if self._boxes is None else self._boxes[self.rows_of[number]]

    def keep_decoded(self, batch: Iterable[DecodedFrame], field_of_view: float) -> list[Frame]:
        """The frames that have an image; the others are marked."""
        frames = []
        for item in batch:
            if item.image is None:
                self.fail(item.number, Status.DECODE_ERROR, item.error or "no image")
                continue
            height, width = item.image.shape[:2]
            camera = self.camera or Camera.from_field_of_view(width, height, field_of_view)
            frames.append(Frame(self.key, item.number, item.image, camera))
        return frames

    def fail(self, number: int, status: Status, reason: str) -> None:
        """Mark all rows of a frame."""
        for row in self.rows_of[number]:
            self._mark(row, status, reason)

    def fill(self, number: int, result: FrameFeatures) -> None:
        """Write one frame's features into its rows."""
        for person, row in enumerate(self.rows_of[number]):
            i = min(person, len(result.found) - 1)  # one entry where a rule chose one person for the frame
            if not result.found[i]:
                why = "no person detected" if self._boxes is None else "no detection overlaps the annotated person"
                self._mark(row, Status.NO_PERSON, why)
                continue
            filled = self.arrays
            filled["features"][row] = result.values[i]
            filled["joint_valid"][row] = result.valid[i]
            filled["bbox"][row] = result.boxes[i]
            filled["bbox_score"][row] = result.box_scores[i]
            for name, values in (
                ("pose_embedding", result.embeddings.pose),
                ("depth_embedding", result.embeddings.depth),
            ):
                if name in filled and values is not None:
                    filled[name][row] = features.encode_float16(values[i])
            for stream, grid in result.embeddings.grids.items():
                self.grids.setdefault(stream, set()).add(grid)
            if self.keeper is not None:
                self.keeper.fill(row, i, result.maps)
            filled["status"][row] = Status.OK

    def _mark(self, row: int, status: Status, reason: str) -> None:
        self.arrays["status"][row] = status
        self.reasons[row] = reason

    def common_failure(self) -> str | None:
        """The reason for which the models failed on all frames that have an image, if those are several."""
        status = self.arrays["status"]
        rows = np.flatnonzero(status != Status.DECODE_ERROR)
        failed = {number for number, own in self.rows_of.items() if status[own[0]] == Status.MODEL_ERROR}
        if len(failed) < 2 or (status[rows] != Status.MODEL_ERROR).any():
            return None
        reasons = {self.reasons[row] for row in rows.tolist()}
        return reasons.pop() if len(reasons) == 1 else None

    def finish(self) -> xr.Dataset:
        """The dataset with its reasons."""
        self.ds.attrs["failures"] = json.dumps(sorted(self.reasons.items()))
        if self.grids:  # several of depth where a sequence's images have several sizes
            self.ds.attrs["embedding_grids"] = json.dumps({name: sorted(own) for name, own in self.grids.items()})
        return features.validate(self.ds)
