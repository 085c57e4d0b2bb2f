"""Rows of the XYCD file from rows of features and annotations: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.features import Status
from schemas.xycd import MINMAX_COLUMNS, SUMMARY_COLUMNS, VECTOR_COLUMNS

Array = NDArray[Any]


@dataclass(frozen=True)
class RowSettings:
    """Options of the rows of an XYCD file.

    compat "auglift" is as the published scripts: scores unclipped, float16 vectors, and a detected ``part`` has the
    visibility of the ground truth.
    """

    part: Literal["truth", "detected"] = "truth"  # content of the key ``part``
    casp_extremes: Literal["quantile", "minmax"] = "quantile"  # extremes in the descriptor vectors
    compat: Literal["auglift"] | None = None

    @property
    def vector_dtype(self) -> str:
        """Dtype of the descriptor vectors."""
        return "float16" if self.compat == "auglift" else "float32"

    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the features in the summary (10) and in the vector (19)."""
        replaced = MINMAX_COLUMNS if self.casp_extremes == "minmax" else {}
        summary = tuple(replaced.get(name, name) for name in SUMMARY_COLUMNS)
        return summary, tuple(replaced.get(name, name) for name in VECTOR_COLUMNS)


def predictions(
    values: NDArray[np.float32],
    names: Sequence[str],
    status: NDArray[np.integer],
    joint_valid: NDArray[np.bool_],
    settings: RowSettings,
) -> dict[str, Array]:
    """Predicted arrays of the XYCD file, by key.

    Parameters
    ----------
    values : (M, 17, F) float32
        Features.
    names : sequence of F str
        Their names.
    status : (M,) int
        schemas.features.Status.
    joint_valid : (M, 17) bool
        Joints with a finite position and depth.
    settings : RowSettings
        Rules.

    Returns
    -------
    dict of str to array
        M rows each; descriptor vectors if `names` has all their features. Rows whose status isn't ok, and single
        values of NaN, are zeros, never the ground truth.
    """
    ok = np.asarray(status) == Status.OK
    column = {name: i for i, name in enumerate(names)}
    values = np.where(ok[:, None, None], np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), np.float32(0))
    if settings.compat != "auglift":
        values[..., column["confidence"]] = values[..., column["confidence"]].clip(0, 1)
    xy, score, depth = values[..., :2], values[..., column["confidence"]], values[..., column["depth"]]
    rows: dict[str, Array] = {
        "valid_detection": ok,
        "joint_valid": joint_valid & ok[:, None],
        "predicted_keypoints": xy,
        "predicted_keypoints_score": score,
        "predicted_da_depth": depth,
        "depth_min": values[..., column["depth_min"]],
        "depth_max": values[..., column["depth_max"]],
        "xycd": np.concatenate([xy, score[..., None], depth[..., None]], axis=-1),
    }
    if has_statistics(names):
        for key, wanted in zip(("summary_casp_descriptor_10d", "casp_descriptors"), settings.columns(), strict=True):
            vector = values[..., [column[name] for name in wanted]]
            rows[key] = to_dtype(vector, settings.vector_dtype)
    return rows


def has_statistics(names: Sequence[str]) -> bool:
    """Whether these features suffice for the descriptor vectors, with either kind of extremes."""
    return {*SUMMARY_COLUMNS, *VECTOR_COLUMNS, *MINMAX_COLUMNS.values()} <= set(names)


def to_dtype(values: NDArray[np.floating], dtype: str) -> Array:
    """Convert to float16 or float32; greater values become the greatest finite number."""
    limit = np.finfo(dtype).max
    return values.clip(-limit, limit).astype(dtype)


def truth(
    keypoints_2d: NDArray[np.floating],
    keypoints_3d: NDArray[np.floating],
    visibility: NDArray[np.floating],
    center: NDArray[np.floating],
    scale: NDArray[np.floating],
) -> dict[str, Array]:
    """Ground-truth arrays of the XYCD file, by key: part (M,17,3), S (M,17,4), center (M,2), scale (M,).

    Parameters as in schemas.annotation. A joint with NaN becomes zeros with visibility 0; so do centre and scale.
    """
    known = np.isfinite(keypoints_2d).all(axis=-1) & np.isfinite(keypoints_3d).all(axis=-1)
    visible = np.where(known, visibility, 0)[..., None]
    arrays = {
        "center": center,
        "scale": scale,
        "part": np.concatenate([keypoints_2d, visible], axis=-1),
        "S": np.concatenate([keypoints_3d, visible], axis=-1),
    }
    return {name: np.nan_to_num(array, nan=0.0).astype(np.float32) for name, array in arrays.items()}


def detected_part(rows: dict[str, Array], visibility: NDArray[np.floating] | None, settings: RowSettings) -> Array:
    """Key ``part`` (M, 17, 3) with detected positions; a joint is visible if it is valid.

    Parameters
    ----------
    rows : dict of str to array
        From `predictions`.
    visibility : (M, 17) float, optional
        Of the ground truth; compat "auglift" keeps it.
    settings : RowSettings
        Rules.
    """
    visible: Array = rows["joint_valid"].astype(np.float32)
    if settings.compat == "auglift" and visibility is not None:
        visible = np.nan_to_num(visibility, nan=0.0).astype(np.float32)
    return np.concatenate([rows["predicted_keypoints"], visible[..., None]], axis=-1)
