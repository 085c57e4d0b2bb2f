"""Conversion between the joints of detectors and those of the datasets."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.skeletons import COCO_TO_H36M

Floats = NDArray[np.float32]

# Four COCO joints for each H36M joint, repeated where there are fewer, so that every H36M joint is a mean of four. A
# matrix of weights would do the same for finite values, but with 0 * NaN one missing joint would make all joints NaN.
_SOURCES: Final = np.array([(sources * 4)[:4] for sources in COCO_TO_H36M])


def coco_to_h36m(keypoints: NDArray[np.floating], scores: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Convert COCO joints to Human3.6M joints; joints that COCO lacks are means of others.

    Equal to MMPose's ``convert_keypoint_definition`` from 'coco' to 'h36m', for confidences too. The neck base is the
    nose, and the head is the middle of the eyes.

    Parameters
    ----------
    keypoints : (..., 17, 2) float
        COCO_17 joints, px.
    scores : (..., 17) float
        Confidences of the joints.

    Returns
    -------
    keypoints : (..., 17, 2) float32
        H36M_17 joints, px. A joint is NaN where one of its sources is.
    scores : (..., 17) float32
        Their confidences, neither clipped nor scaled.
    """
    joints = np.asarray(keypoints)[..., _SOURCES, :].mean(axis=-2, dtype=np.float64)
    confidence = np.asarray(scores)[..., _SOURCES].mean(axis=-1, dtype=np.float64)
    return joints.astype(np.float32), confidence.astype(np.float32)
