"""A model set that errs as a small network does, at no cost: rendered truth with errors that last, and lost frames."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo.truth import SceneTruth
from etl.models.base import Detections, Frame, Poses
from etl.stages.blocks.people import box_of_keypoints
from schemas.keys import SequenceKey

MEMORY = 0.85  # of an error from one frame to the next, at 50 Hz


def lasting_errors(name: str, frames: int) -> NDArray[np.float64]:
    """Errors (frames, 17, 2) of about 1: a constant part of each joint, and one that changes slowly."""
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    white = rng.normal(size=(frames, 17, 2))
    slow = white.copy()
    for number in range(1, frames):
        slow[number] = MEMORY * slow[number - 1] + np.sqrt(1 - MEMORY**2) * white[number]
    return (slow + rng.normal(size=(1, 17, 2))) / np.sqrt(2)


class NoisyTruth(SceneTruth):
    """See `build`."""

    def __init__(self, folder: Path, share: float, lost: int, broken: int) -> None:
        super().__init__(folder)
        self.share, self.lost, self.broken = share, lost, broken
        self._errors = functools.cache(lasting_errors)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "name": "noisy", "share": self.share, "lost": self.lost, "broken": self.broken}

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        nobody = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), {"person": np.zeros(0, np.intp)})
        found = super().detect(frames)
        return [
            nobody if self.lost and frame.number % self.lost == self.lost - 1 else some
            for frame, some in zip(frames, found, strict=True)
        ]

    def estimate_poses(self, frames: Sequence[Frame], detections: Sequence[Detections]) -> list[Poses]:
        for frame in frames:
            if self.broken and frame.number % self.broken == self.broken - 1:
                raise RuntimeError(f"frame {frame.number} is too much for this network")
        poses = super().estimate_poses(frames, detections)
        return [self._blurred(frame, some) for frame, some in zip(frames, poses, strict=True)]

    def _blurred(self, frame: Frame, poses: Poses) -> Poses:
        keypoints, scores = poses.keypoints.copy(), poses.scores.copy()
        sides = np.diff(box_of_keypoints(keypoints).reshape(-1, 2, 2), axis=1)[:, 0].max(1, initial=0)
        for person, side in enumerate(sides):
            errors = self._errors(f"{frame.key} {person}", self._length(frame.key))[frame.number]
            keypoints[person] += self.share * side * errors
            scores[person] = np.clip(0.98 - 0.25 * np.linalg.norm(errors, axis=1), 0.05, 1)
        return Poses(keypoints.astype(np.float32), scores.astype(np.float32), poses.boxes, poses.box_scores)

    def _length(self, key: SequenceKey) -> int:
        return len(self.truth(key))


def build(folder: str, *, share: float = 0.015, lost: int = 0, broken: int = 0, **_: Any) -> NoisyTruth:
    """Factory for ``models.set = "tests.etl.noisy:build"``.

    Parameters
    ----------
    folder : str
        The miniature dataset.
    share : float
        Size of the errors as a fraction of the person's; confidence falls with them.
    lost, broken : int
        In every so many-th frame nobody is found, or the network raises; never where 0.
    """
    return NoisyTruth(Path(folder), share, lost, broken)
