"""The labelled annotation dataset: one NetCDF file per sequence, one row per frame and person.

| variable | dims | dtype | |
|---|---|---|---|
| keypoints_2d | frame, joint, image_axis | float64 | px; H36M_17 order |
| keypoints_3d | frame, joint, camera_axis | float64 | metres, camera coordinates, absolute |
| visibility | frame, joint | float32 | 1 or 0, as the release or MMPose says |
| center | frame, image_axis | float64 | px; centre of the tight box of keypoints_2d |
| scale | frame | float64 | 1.2 * longer side of that box / 200 (MMPose's convention) |
| valid_annotation | frame | bool | the release calls the frame usable |
| frame_number | frame | int32 | 0-based position of the frame in the sequence's media |
| person | frame | int32 | 0-based |
| camera_rotation | frame, camera_axis, world_axis | float64 | R of X_c = R X_w + t of a moving camera; NaN: unknown |
| camera_translation | frame, camera_axis | float64 | t of the same, metres |

The pose of a fixed camera is in the attribute camera_parameters. A sequence without ground truth has only
frame_number, person and valid_annotation (all false).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from schemas.camera import Camera
from schemas.errors import SchemaError
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17
from schemas.validation import require_joints, require_variables

VERSION: Final = 1

GROUND_TRUTH: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "keypoints_2d": (("frame", "joint", "image_axis"), "float64"),
    "keypoints_3d": (("frame", "joint", "camera_axis"), "float64"),
    "visibility": (("frame", "joint"), "float32"),
    "center": (("frame", "image_axis"), "float64"),
    "scale": (("frame",), "float64"),
}
ALWAYS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "valid_annotation": (("frame",), "bool"),
    "frame_number": (("frame",), "int32"),
    "person": (("frame",), "int32"),
}
MOVING_CAMERA: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "camera_rotation": (("frame", "camera_axis", "world_axis"), "float64"),
    "camera_translation": (("frame", "camera_axis"), "float64"),
}
UNITS: Final = {
    "keypoints_2d": "px", "keypoints_3d": "m", "center": "px", "scale": "200 px",
    "camera_rotation": "1", "camera_translation": "m",
}  # fmt: skip
ATTRIBUTES: Final[dict[str, type]] = {
    "schema": str,  # "xycd annotation 1"
    "dataset": str,
    "subject": str,
    "action": str,
    "subaction": int,
    "camera": str,
    "split": str,
    "release_name": str,  # the release's own name of the sequence
    "media": str,  # JSON of etl.media.frames.Media: the video or images, relative to the dataset's root
    "media_bytes": int,  # size of the media, part of a partition's identity
    "rate_hz": float,  # of the rows; 0 where unknown
    "media_rate_hz": float,  # of the media; 0 where unknown
    "camera_parameters": str,  # JSON of schemas.camera.Camera, or "" where unknown
    "imgname": str,  # str.format template of {number} (frame_number + 1), {frame} (frame_number), {person}
    "joint_source": str,  # where the 17 joints come from
    "provenance": str,  # JSON: versions, parameters, notes
}


def build(
    key: SequenceKey,
    *,
    frame_number: NDArray[np.integer],
    person: NDArray[np.integer] | None = None,
    valid_annotation: NDArray[np.bool_] | None = None,
    keypoints_2d: NDArray[np.floating] | None = None,
    keypoints_3d: NDArray[np.floating] | None = None,
    visibility: NDArray[np.floating] | None = None,
    camera_rotation: NDArray[np.floating] | None = None,
    camera_translation: NDArray[np.floating] | None = None,
    camera: Camera | None,
    split: str,
    release_name: str,
    media: dict[str, Any],
    media_bytes: int,
    rate_hz: float,
    media_rate_hz: float,
    imgname: str,
    joint_source: str,
    provenance: dict[str, Any],
) -> xr.Dataset:
    """Build a valid annotation dataset; boxes come from the 2D joints.

    Parameters
    ----------
    key : SequenceKey
        Identity of the sequence.
    frame_number, person : (N,) int
        Rows, sorted by person, then by time; `person` defaults to 0.
    valid_annotation : (N,) bool, optional
        Defaults to true where there is ground truth.
    keypoints_2d : (N, 17, 2) float, optional
        Pixels, H36M_17 order. None for a sequence without ground truth.
    keypoints_3d : (N, 17, 3) float, optional
        Metres, camera coordinates.
    visibility : (N, 17) float, optional
        Defaults to 1.
    camera_rotation, camera_translation : (N, 3, 3), (N, 3) float, optional
        World-to-camera pose of every row, metres, for a camera that moves.
    camera, split, release_name, media, media_bytes, rate_hz, media_rate_hz, imgname, joint_source, provenance
        See ATTRIBUTES.
    """
    n = len(frame_number)
    has_truth = keypoints_2d is not None
    if has_truth != (keypoints_3d is not None):
        there = "2D" if has_truth else "3D"
        raise SchemaError("Ground truth must be 2D and 3D joints.", f"only {there} joints", "Give both, or neither.")
    data: dict[str, Any] = {
        "frame_number": (("frame",), np.asarray(frame_number, np.int32)),
        "person": (("frame",), np.zeros(n, np.int32) if person is None else np.asarray(person, np.int32)),
        "valid_annotation": (
            ("frame",),
            np.full(n, has_truth) if valid_annotation is None else np.asarray(valid_annotation, bool),
        ),
    }
    poses = {"camera_rotation": camera_rotation, "camera_translation": camera_translation}
    moving = {name: values for name, values in poses.items() if values is not None}
    for name, values in moving.items():
        dims, dtype = MOVING_CAMERA[name]
        data[name] = (dims, np.asarray(values, dtype), {"units": UNITS[name]})
    if keypoints_2d is not None and keypoints_3d is not None:
        center, scale = boxes(np.asarray(keypoints_2d, np.float64))
        truth = {
            "keypoints_2d": keypoints_2d,
            "keypoints_3d": keypoints_3d,
            "visibility": np.ones((n, 17)) if visibility is None else visibility,
            "center": center,
            "scale": scale,
        }
        for name, values in truth.items():
            dims, dtype = GROUND_TRUTH[name]
            attrs = {"units": UNITS[name]} if name in UNITS else {}
            data[name] = (dims, np.asarray(values, dtype), attrs)
    coords = {
        "joint": list(H36M_17.joints),
        "image_axis": ["x", "y"],
        "camera_axis": ["x", "y", "z"],
        "world_axis": ["x", "y", "z"],
    }
    used = {dim for dims, *_ in data.values() for dim in dims}
    ds = xr.Dataset(data, coords={name: values for name, values in coords.items() if name in used})
    ds = ds.set_coords(["frame_number", "person"])
    ds.attrs = {
        "schema": f"xycd annotation {VERSION}",
        **asdict(key),
        "split": split,
        "release_name": release_name,
        "media": json.dumps(media, sort_keys=True),
        "media_bytes": int(media_bytes),
        "rate_hz": float(rate_hz),
        "media_rate_hz": float(media_rate_hz),
        "camera_parameters": json.dumps(camera.to_dict()) if camera else "",
        "imgname": imgname,
        "joint_source": joint_source,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    return validate(ds)


def boxes(keypoints_2d: NDArray[np.float64], factor: float = 1.2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centre (N, 2) and scale (N,) of the tight box of joints (N, 17, 2), as MMPose's converters compute them.

    Joints that are NaN are left out; a row without other joints gives NaN.
    """
    finite: NDArray[np.bool_] = np.isfinite(keypoints_2d).min(axis=-1)
    low = np.where(finite[..., None], keypoints_2d, np.inf).min(1)
    high = np.where(finite[..., None], keypoints_2d, -np.inf).max(1)
    empty = finite.sum(axis=1) == 0
    low[empty] = high[empty] = np.nan
    return (low + high) / 2, factor * (high - low).max(-1) / 200


def has_ground_truth(ds: xr.Dataset) -> bool:
    """Whether the dataset has joints."""
    return "keypoints_2d" in ds


def key_of(ds: xr.Dataset) -> SequenceKey:
    """Return the key of the sequence that `ds` describes; for annotations and features."""
    a = ds.attrs
    return SequenceKey(a["dataset"], a["subject"], a["action"], int(a["subaction"]), a["camera"])


def camera_of(ds: xr.Dataset) -> Camera | None:
    """Return the sequence's camera, or None where it is unknown."""
    text = ds.attrs["camera_parameters"]
    return Camera.from_dict(json.loads(text)) if text else None


def imgname_of(ds: xr.Dataset) -> NDArray[np.str_]:
    """Return the image name (N,) of each row, as MMPose's converter for the dataset writes it."""
    template = ds.attrs["imgname"]
    rows = zip(ds["frame_number"].values.tolist(), ds["person"].values.tolist(), strict=True)
    return np.array([template.format(number=f + 1, frame=f, person=p) for f, p in rows], dtype=np.str_)


def validate(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` if it is an annotation dataset.

    Raises
    ------
    SchemaError
        Naming the first variable or attribute that doesn't fit.
    """
    fix = "Run `xycd annotate` again with this version."
    moving = MOVING_CAMERA if any(name in ds for name in MOVING_CAMERA) else {}
    wanted = ALWAYS | (GROUND_TRUTH if has_ground_truth(ds) else {}) | moving
    require_variables(ds, wanted, fix)
    if has_ground_truth(ds):
        require_joints(ds, fix)
    for name in sorted(ATTRIBUTES):
        if name not in ds.attrs:
            raise SchemaError(f"An annotation dataset must have the attribute {name!r}.", f"no attribute {name!r}", fix)
    order = np.lexsort((ds["frame_number"].values, ds["person"].values))
    if not (order == np.arange(len(order))).all():
        raise SchemaError("Rows must be sorted by person, then by frame_number.", "rows in another order", fix)
    pairs = np.stack([ds["person"].values, ds["frame_number"].values])
    if pairs.shape[1] > 1 and (np.diff(pairs, axis=1) == 0).all(axis=0).any():
        raise SchemaError("Each pair of frame and person must occur once.", "a pair that occurs twice", fix)
    return ds


def mock(
    key: SequenceKey | None = None, frames: int = 5, people: int = 1, ground_truth: bool = True, seed: int = 0
) -> xr.Dataset:
    """Return a small valid dataset with random joints in front of a camera, for tests and examples."""
    rng = np.random.default_rng(seed)
    key = key or SequenceKey("h36m", "S1", "Directions", 1, "54138969")
    camera = Camera(key.camera, 1000, 1002, (1145.0, 1144.0), (512.5, 515.5))
    n = frames * people
    points = rng.normal([0, 0, 5], [0.3, 0.6, 0.2], (n, 17, 3))
    return build(
        key,
        frame_number=np.tile(np.arange(frames), people),
        person=np.repeat(np.arange(people), frames),
        keypoints_2d=camera.project(points) if ground_truth else None,
        keypoints_3d=points if ground_truth else None,
        camera=camera,
        split="train",
        release_name=f"{key.action} {key.subaction}.{key.camera}",
        media={
            "kind": "video",
            "path": f"{key.subject}/Videos/{key.action} {key.subaction}.{key.camera}.mp4",
        },
        media_bytes=1000,
        rate_hz=50.0,
        media_rate_hz=50.0,
        imgname=f"{key.subject}/{key.subject}_{key.action}_{key.subaction}.{key.camera}_{{number:06d}}.jpg",
        joint_source="random",
        provenance={"mock": True},
    )
