"""The rows of a partition while its frames are estimated."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etl.config import EstimateSettings
from etl.errors import ModelError
from etl.media.frames import DecodedFrame
from etl.models.base import Frame, ModelSet
from etl.stages.blocks.chain import FrameFeatures
from etl.stages.blocks.people import box_of_keypoints
from etl.stages.files import maps
from schemas import annotation, features
from schemas.camera import Camera
from schemas.features import Status


def uses_boxes(settings: EstimateSettings) -> bool:
    """Whether detections are matched to annotated boxes."""
    return settings.association in ("overlap", "ground_truth_box")


class Request(NamedTuple):
    """A decoded frame, and the boxes of its annotated people; None if they aren't used."""

    frame: Frame
    people: NDArray[np.float32] | None


class Failure(NamedTuple):
    """Why a frame has no features."""

    status: Status
    reason: str


Answer = tuple[int, FrameFeatures | Failure]
"""Number of a frame, and its features or failure."""


class EstimatedRows:
    """The feature dataset of a partition, filled in frame by frame.

    Parameters
    ----------
    annotated : xr.Dataset
        Annotation rows, one for each frame and person; the features have the same rows.
    models : ModelSet
        Tells the widths of the embeddings.
    settings : EstimateSettings
        Tells which features are stored, and how people are matched.
    map_rows : maps.MapRows, optional
        Collects the feature maps.
    """

    def __init__(
        self,
        annotated: xr.Dataset,
        models: ModelSet,
        settings: EstimateSettings,
        map_rows: maps.MapRows | None = None,
    ) -> None:
        self.settings = settings
        self.key = annotation.key_of(annotated)
        self.camera = annotation.camera_of(annotated)
        numbers = annotated["frame_number"].values
        pose_channels, depth_channels = models.channels if settings.embeddings.enabled else (0, 0)
        self.ds = features.empty(
            self.key,
            numbers,
            annotated["person"].values,
            statistics=settings.descriptor.statistics,
            pose_channels=pose_channels,
            depth_channels=depth_channels,
        )
        self.map_rows = map_rows
        # Plain arrays, because access through a dataset takes longer than filling in a row.
        names = (*features.VARIABLES, *features.EMBEDDINGS)
        self.arrays = {name: self.ds[name].values for name in names if name in self.ds}
        self.reasons: dict[int, str] = {}
        self.grids: dict[str, set[tuple[int, int]]] = {}
        self.rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(numbers.tolist()):
            self.rows_of.setdefault(number, []).append(row)
        self._boxes: NDArray[np.float32] | None = None
        if uses_boxes(settings) and annotation.has_ground_truth(annotated):
            # A person with unknown joints has a box of NaN, which matches nobody.
            self._boxes = box_of_keypoints(annotated["keypoints_2d"].values).astype(np.float32)

    def keep_decoded(self, batch: Iterable[DecodedFrame]) -> list[Request]:
        """Frames with an image, as requests; rows of the others are marked as failed."""
        requests = []
        for item in batch:
            if item.image is None:
                self.fail(item.number, Failure(Status.DECODE_ERROR, item.error or "no image"))
                continue
            height, width = item.image.shape[:2]
            camera = self.camera or Camera.from_field_of_view(width, height, self.settings.field_of_view)
            boxes = None if self._boxes is None else self._boxes[self.rows_of[item.number]]
            requests.append(Request(Frame(self.key, item.number, item.image, camera), boxes))
        return requests

    def fail(self, number: int, failure: Failure) -> None:
        """Mark all rows of a frame as failed."""
        for row in self.rows_of[number]:
            self._mark(row, failure)

    def fill(self, answers: Iterable[Answer]) -> None:
        """Fill in the rows of frames."""
        for number, found in answers:
            if isinstance(found, Failure):
                self.fail(number, found)
            else:
                self._fill(number, found)

    def _fill(self, number: int, result: FrameFeatures) -> None:
        for person, row in enumerate(self.rows_of[number]):
            i = min(person, len(result.found) - 1)  # one entry if a rule chose one person of the frame
            if not result.found[i]:
                why = "no person detected" if self._boxes is None else "no detection overlaps the annotated person"
                self._mark(row, Failure(Status.NO_PERSON, why))
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
            if self.map_rows is not None:
                self.map_rows.fill(row, i, result.maps)
            filled["status"][row] = Status.OK

    def _mark(self, row: int, failure: Failure) -> None:
        self.arrays["status"][row] = failure.status
        self.reasons[row] = failure.reason

    def _common_failure(self) -> str | None:
        """The one reason for which the models failed on all decoded frames, if there are several frames."""
        status = self.arrays["status"]
        rows = np.flatnonzero(status != Status.DECODE_ERROR)
        failed = {number for number, own in self.rows_of.items() if status[own[0]] == Status.MODEL_ERROR}
        if len(failed) < 2 or (status[rows] != Status.MODEL_ERROR).any():
            return None
        reasons = {self.reasons[row] for row in rows.tolist()}
        return reasons.pop() if len(reasons) == 1 else None

    def finish(self) -> xr.Dataset:
        """The complete dataset, with the reasons of failures.

        Raises
        ------
        etl.errors.ModelError
            When the models failed on all frames alike. The cause is then the models or their node rather than the
            frames, so the partition isn't finished, and runs again.
        """
        if reason := self._common_failure():
            raise ModelError(
                "Models must work on some frame of a partition.",
                f"on each: {reason}",
                "Fix the cause; the same command runs the partition again.",
            )
        self.ds.attrs["failures"] = json.dumps(sorted(self.reasons.items()))
        if self.grids:  # several for depth if the images of a sequence differ in size
            self.ds.attrs["embedding_grids"] = json.dumps({name: sorted(own) for name, own in self.grids.items()})
        return features.validate(self.ds)
