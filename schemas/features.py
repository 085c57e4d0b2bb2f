"""The feature file that estimate writes: one NetCDF file per partition, one row per frame and annotated person.

| variable | dims | dtype | |
|---|---|---|---|
| features | frame, joint, feature | float32 | x, y px; confidence; depths in m; optional statistics |
| bbox | frame, box_edge | float32 | px, x1 y1 x2 y2 of the chosen person |
| bbox_score | frame | float32 | |
| joint_valid | frame, joint | bool | the joint has a finite position and depth |
| status | frame | int8 | CF flags, see Status |
| frame_number, person | frame | int32 | as in the annotation dataset |
| pose_embedding, depth_embedding | frame, joint, pose_channel / depth_channel | uint16 | float16's bits |

Pixels are those of the full image, 0-based, centre of the top-left pixel at (0, 0). NaN where status isn't ok.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import IntEnum
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from schemas.errors import SchemaError
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17
from schemas.validation import require_joints, require_schema, require_variables

VERSION: Final = 1


class Status(IntEnum):
    """Status of one row."""

    OK = 0
    NO_PERSON = 1
    DECODE_ERROR = 2
    MODEL_ERROR = 3
    NOT_RUN = 4


BASIC_FEATURES: Final = ("x", "y", "confidence", "depth", "depth_min", "depth_max")
QUANTILES: Final = ("q10", "q25", "median", "q75", "q90")
# Pixels at which these values lie; the vectors for training need them beside the values.
POSITIONS: Final = tuple(f"{name}_{axis}" for name in (*QUANTILES, "depth_min", "depth_max") for axis in "xy")
STATISTICS: Final = (
    "mean", "std", *QUANTILES, "mad", "occlusion_asymmetry", "radius", "person_scale", "point", *POSITIONS,
)  # fmt: skip
FEATURE_UNITS: Final[dict[str, str]] = {
    **dict.fromkeys(("depth", "depth_min", "depth_max", "mean", "std", "point"), "m"),
    **dict.fromkeys((*QUANTILES, "mad", "occlusion_asymmetry"), "m"),
    **dict.fromkeys(("x", "y", "radius", "person_scale", *POSITIONS), "px"),
    "confidence": "1",
}  # fmt: skip

VARIABLES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "features": (("frame", "joint", "feature"), "float32"),
    "bbox": (("frame", "box_edge"), "float32"),
    "bbox_score": (("frame",), "float32"),
    "joint_valid": (("frame", "joint"), "bool"),
    "status": (("frame",), "int8"),
    "frame_number": (("frame",), "int32"),
    "person": (("frame",), "int32"),
}
EMBEDDINGS: Final[dict[str, str]] = {"pose_embedding": "pose_channel", "depth_embedding": "depth_channel"}


def empty(
    key: SequenceKey,
    frame_number: NDArray[np.integer],
    person: NDArray[np.integer],
    *,
    statistics: bool = False,
    pose_channels: int = 0,
    depth_channels: int = 0,
) -> xr.Dataset:
    """Return a dataset of rows that haven't run yet: NaN everywhere, status NOT_RUN, to be filled in place.

    Parameters
    ----------
    key : SequenceKey
        Sequence of the frames.
    frame_number, person : (N,) int
        Frame and person of each row, 0-based.
    statistics : bool
        Whether to have the optional statistics of the neighbourhood.
    pose_channels, depth_channels : int
        Number of channels of the embeddings; 0 leaves them out.
    """
    n = len(frame_number)
    names = [*BASIC_FEATURES, *(STATISTICS if statistics else ())]
    data: dict[str, Any] = {
        "features": (("frame", "joint", "feature"), np.full((n, 17, len(names)), np.nan, np.float32)),
        "bbox": (("frame", "box_edge"), np.full((n, 4), np.nan, np.float32), {"units": "px"}),
        "bbox_score": (("frame",), np.full(n, np.nan, np.float32)),
        "joint_valid": (("frame", "joint"), np.zeros((n, 17), bool)),
        "status": (
            ("frame",),
            np.full(n, Status.NOT_RUN, np.int8),
            {
                "flag_values": np.array([s.value for s in Status], np.int8),
                "flag_meanings": " ".join(s.name.lower() for s in Status),
            },
        ),
    }
    for name, channels in zip(EMBEDDINGS, (pose_channels, depth_channels), strict=True):
        if channels:
            dims = ("frame", "joint", EMBEDDINGS[name])
            nan = np.float16(np.nan).view(np.uint16)
            data[name] = (dims, np.full((n, 17, channels), nan, np.uint16), {"encoding": "bits of float16"})
    ds = xr.Dataset(
        data,
        coords={
            "joint": list(H36M_17.joints),
            "feature": names,
            "box_edge": ["x1", "y1", "x2", "y2"],
            "frame_number": (("frame",), np.asarray(frame_number, np.int32)),
            "person": (("frame",), np.asarray(person, np.int32)),
        },
        attrs={
            "schema": f"xycd features {VERSION}",
            **asdict(key),
            "feature_units": json.dumps({name: FEATURE_UNITS[name] for name in names}),
            "failures": "[]",
        },
    )
    return ds


def encode_float16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Return the bits of `values` as float16, because NetCDF has no half precision."""
    return np.asarray(values, np.float16).view(np.uint16)


def decode_float16(bits: NDArray[np.uint16]) -> NDArray[np.float16]:
    """Return the float16 values of bits that `encode_float16` gave."""
    return np.asarray(bits, np.uint16).view(np.float16)


def failures_of(ds: xr.Dataset) -> dict[int, str]:
    """Return why each row that isn't ok failed, by its position in the file."""
    return parse_failures(ds.attrs["failures"])


def parse_failures(text: str) -> dict[int, str]:
    """Parse the attribute ``failures`` of a feature file."""
    return {int(row): str(reason) for row, reason in json.loads(text)}


def validate(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` if it is a feature dataset.

    Raises
    ------
    SchemaError
        Naming the first variable that doesn't fit.
    """
    fix = "Remove the file and run `xycd estimate` again."
    require_schema(ds, f"xycd features {VERSION}", fix)
    require_variables(ds, VARIABLES, fix)
    embeddings = {name: (("frame", "joint", dim), "uint16") for name, dim in EMBEDDINGS.items() if name in ds}
    require_variables(ds, embeddings, fix)
    require_joints(ds, fix)
    names = tuple(ds["feature"].values.tolist())
    if names[: len(BASIC_FEATURES)] != BASIC_FEATURES or not set(names[len(BASIC_FEATURES) :]) <= set(STATISTICS):
        rule = f"Features must start with {BASIC_FEATURES}, and the others must be known statistics."
        raise SchemaError(rule, f"features {names}", fix)
    statuses = np.unique(ds["status"].values).tolist()
    if not set(statuses) <= {s.value for s in Status}:
        raise SchemaError("Every status must be one of the flags.", f"statuses {statuses}", fix)
    if np.isfinite(ds["features"].values[ds["status"].values != Status.OK]).any():
        raise SchemaError("Features must be NaN where status isn't ok.", "finite values elsewhere", fix)
    return ds


def mock(
    key: SequenceKey | None = None,
    frames: int = 5,
    *,
    first: int = 0,
    statistics: bool = False,
    pose_channels: int = 0,
    depth_channels: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """Return a valid dataset of random values, all ok, one person; for tests, examples and simulated stores."""
    rng = np.random.default_rng(seed)
    key = key or SequenceKey("h36m", "S1", "Directions", 1, "54138969")
    ds = empty(
        key,
        np.arange(first, first + frames),
        np.zeros(frames, np.int32),
        statistics=statistics,
        pose_channels=pose_channels,
        depth_channels=depth_channels,
    )
    values = rng.uniform(0, 1, ds["features"].shape).astype(np.float32)
    values[..., :2] *= 1000
    values[..., 3:] += 4
    ds["features"].values[:] = values
    ds["bbox"].values[:] = [100, 100, 500, 900]
    ds["bbox_score"].values[:] = 0.9
    ds["joint_valid"].values[:] = True
    ds["status"].values[:] = Status.OK
    for name in EMBEDDINGS:
        if name in ds:
            ds[name].values[:] = encode_float16(rng.normal(size=ds[name].shape).astype(np.float32))
    return ds
