"""The XYCD file that merge writes for training: an npz or a folder of npy files, one row per frame and person.

Rows are in the order of the sequences' keys, within a sequence by person, then by time. Pixels are those of the full
image, 0-based, centre of the top-left pixel at (0, 0); depths are absolute metres. The first five keys of MMPose's own
annotation files (imgname, center, scale, part, S) mean here what they mean there.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SchemaError

VERSION: Final = 1
Group = Literal["always", "truth", "statistics", "pose_embedding", "depth_embedding"]


@dataclass(frozen=True)
class Key:
    """One array of the file.

    Parameters
    ----------
    shape : tuple of str or int
        ``N`` is the number of rows, ``Cp`` and ``Cd`` the widths of the embeddings.
    dtype : str
        numpy's name; ``str`` for text of any length.
    unit : str
        Unit of its values, or of its columns.
    text : str
        What it holds.
    group : {"always", "truth", "statistics", "pose_embedding", "depth_embedding"}
        When the file has it: always; if any sequence has ground truth (``part`` also if it holds detections); with
        the descriptor's statistics on; with embeddings on.
    """

    shape: tuple[str | int, ...]
    dtype: str
    unit: str
    text: str
    group: Group = "always"


KEYS: Final[dict[str, Key]] = {
    "imgname": Key(("N",), "str", "", "as MMPose's converter for the dataset names the image"),
    "center": Key(("N", 2), "float32", "px", "of the ground truth's tight box", "truth"),
    "scale": Key(("N",), "float32", "200 px", "1.2 times that box's longer side", "truth"),
    "part": Key(("N", 17, 3), "float32", "px, px, 1", "2D joints and visibility: ground truth, or detected", "truth"),
    "S": Key(("N", 17, 4), "float32", "m, m, m, 1", "3D joints in camera coordinates and visibility", "truth"),
    "subject": Key(("N",), "str", "", "canonical name"),
    "action": Key(("N",), "str", "", "canonical name"),
    "subaction": Key(("N",), "int32", "", "repetition, from 1; 0 where the dataset has none"),
    "camera": Key(("N",), "str", "", "name"),
    "frame": Key(("N",), "int32", "", "0-based position in the sequence's media"),
    "person": Key(("N",), "int32", "", "0-based number of the annotated person"),
    "valid_detection": Key(("N",), "bool", "", "the row's status is ok; elsewhere predictions are zeros"),
    "valid_annotation": Key(("N",), "bool", "", "the release calls the row usable"),
    "joint_valid": Key(("N", 17), "bool", "", "the joint has a finite position and depth; elsewhere its depths are 0"),
    "predicted_keypoints": Key(("N", 17, 2), "float32", "px", "detected joints"),
    "predicted_keypoints_score": Key(("N", 17), "float32", "1", "their confidences, in 0 to 1"),
    "predicted_da_depth": Key(("N", 17), "float32", "m", "depth at the joints"),
    "depth_min": Key(("N", 17), "float32", "m", "least depth of the neighbourhood"),
    "depth_max": Key(("N", 17), "float32", "m", "greatest depth of the neighbourhood"),
    "xycd": Key(("N", 17, 4), "float32", "px, px, 1, m", "position, confidence and depth together"),
    "summary_casp_descriptor_10d": Key(
        ("N", 17, 10), "float32", "px, px, 1, px, m...", "x, y, confidence, radius, q10, q25, median, q75, q90, point",
        "statistics",
    ),
    "casp_descriptors": Key(
        ("N", 17, 19), "float32", "m, px, px; ...; px",
        "depth, x, y of q10, q25, median, q75, q90 and of the median again; person scale", "statistics",
    ),
    "rtm_joint_feats": Key(
        ("N", 17, "Cp"), "float16", "", "the pose network's features at the joints", "pose_embedding"
    ),
    "dav2_joint_feats": Key(
        ("N", 17, "Cd"), "float16", "", "the depth network's features at the joints", "depth_embedding"
    ),
    "metadata": Key((), "str", "", "JSON: versions, models, parameters, counts"),
}  # fmt: skip

# Names of features, in the order of the vector's columns.
SUMMARY_COLUMNS: Final = (
    "x", "y", "confidence", "radius", "q10", "q25", "median", "q75", "q90", "point",
)  # fmt: skip
VECTOR_COLUMNS: Final = (
    *(f"{name}{axis}" for name in ("q10", "q25", "median", "q75", "q90", "median") for axis in ("", "_x", "_y")),
    "person_scale",
)
# With casp_extremes = "minmax", the vectors have these instead.
MINMAX_COLUMNS: Final = {
    f"{quantile}{axis}": f"{extreme}{axis}"
    for quantile, extreme in (("q10", "depth_min"), ("q90", "depth_max"))
    for axis in ("", "_x", "_y")
}


def layout(
    rows: int,
    *,
    text: Mapping[str, int],
    truth: bool,
    part: bool = True,
    statistics: bool = False,
    pose_channels: int = 0,
    depth_channels: int = 0,
    vectors: str = "float32",
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and dtype of every array but `metadata`, by key, in order.

    Parameters
    ----------
    rows : int
        Number of rows, N.
    text : mapping of str to int
        Characters of the longest value of imgname, subject, action and camera.
    truth, part, statistics : bool
        Whether the file has ground truth; `part` without it; statistics.
    pose_channels, depth_channels : int
        Widths of the embeddings; 0 leaves them out.
    vectors : {"float32", "float16"}
        dtype of the two descriptor vectors; the published files have float16.
    """
    groups = {"always": True, "truth": truth, "statistics": statistics}
    groups |= {"pose_embedding": pose_channels > 0, "depth_embedding": depth_channels > 0}
    sizes = {"N": rows, "Cp": pose_channels, "Cd": depth_channels}
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, key in KEYS.items():
        if name != "metadata" and (groups[key.group] or (name == "part" and part)):
            shape = tuple(sizes[n] if isinstance(n, str) else n for n in key.shape)
            dtype = f"<U{max(text[name], 1)}" if key.dtype == "str" else key.dtype
            shapes[name] = (shape, np.dtype(vectors if key.group == "statistics" else dtype))
    return shapes


@contextmanager
def opened(path: Path | str) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open the arrays of an npz (each read when accessed) or of a folder of npy files (memory-mapped).

    Raises
    ------
    SchemaError
        When it is neither.
    """
    path = Path(path)
    if path.is_dir():
        yield {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(path.glob("*.npy"))}
        return
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SchemaError("An XYCD file must be an npz or a folder of npy.", f"{path}: {error}", _FIX) from error
    with file:
        yield file


_FIX: Final = "Run `xycd merge` again."


def validate(source: Path | str | Mapping[str, NDArray[Any]]) -> None:
    """Check that `source`, a path or arrays by key, is an XYCD file.

    Checks names, shapes and dtypes of all arrays, and where they are small enough to read, that predictions are zero
    where there is no valid detection, and that confidences lie in 0 to 1. An npz is read array by array.

    Raises
    ------
    SchemaError
        Naming the first key, in the order of KEYS, that doesn't fit.
    """
    if isinstance(source, Path | str):
        with opened(source) as arrays:
            validate(arrays)
        return
    names = set(source)
    for name in sorted(names - set(KEYS)):
        raise SchemaError(f"An XYCD file must have no keys but {', '.join(KEYS)}.", f"key {name!r}", _FIX)
    sizes: dict[str, int] = {}
    for name, key in KEYS.items():
        if name not in names:
            if key.group == "always":
                raise SchemaError(f"An XYCD file must have the key {name!r}.", f"only the keys {sorted(names)}", _FIX)
            continue
        values = source[name]
        fits = len(values.shape) == len(key.shape) and all(
            found == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, found))
            for found, wanted in zip(values.shape, key.shape, strict=True)
        )
        if not fits:
            sizes_text = ", ".join(f"{size} = {n}" for size, n in sizes.items())
            rule = f"{name!r} must have the shape {key.shape} with {sizes_text}."
            raise SchemaError(rule, f"shape {values.shape}", _FIX)
        allowed = ("float32", "float16") if key.group == "statistics" else (key.dtype,)
        if not (values.dtype.kind == "U" if key.dtype == "str" else values.dtype.name in allowed):
            raise SchemaError(f"{name!r} must be {' or '.join(allowed)}.", f"dtype {values.dtype}", _FIX)
    metadata = json.loads(str(source["metadata"]))
    _validate_values(source, raw_scores=metadata.get("compat") == "auglift")


def _validate_values(source: Mapping[str, NDArray[Any]], raw_scores: bool) -> None:
    missing = ~np.asarray(source["valid_detection"])
    for name in ("predicted_keypoints", "predicted_keypoints_score", "predicted_da_depth", "xycd"):
        values = source[name]
        if np.any(values[missing]):
            raise SchemaError(f"{name!r} must be zero where there is no valid detection.", "other values there", _FIX)
        if not np.isfinite(values).all():
            raise SchemaError(f"{name!r} must be finite.", "NaN or infinite values", _FIX)
    score = source["predicted_keypoints_score"]
    if not raw_scores and score.size and (score.min() < 0 or score.max() > 1):
        raise SchemaError("Confidences must lie in 0 to 1.", f"confidences of {score.min()} to {score.max()}", _FIX)
    if np.asarray(source["joint_valid"])[missing].any():
        raise SchemaError("No joint may be valid where there is no valid detection.", "valid joints there", _FIX)


def mock(
    rows: int = 6,
    *,
    truth: bool = True,
    statistics: bool = False,
    pose_channels: int = 0,
    depth_channels: int = 0,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a small valid file, of random values; the last row has no valid detection."""
    rng = np.random.default_rng(seed)
    shapes = layout(
        rows,
        text={"imgname": 40, "subject": 2, "action": 10, "camera": 8},
        truth=truth,
        part=truth,
        statistics=statistics,
        pose_channels=pose_channels,
        depth_channels=depth_channels,
    )
    arrays: dict[str, NDArray[Any]] = {}
    for name, (shape, dtype) in shapes.items():
        arrays[name] = rng.uniform(0, 1, shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
    arrays["frame"] = np.arange(rows, dtype=np.int32)
    arrays["person"] = np.zeros(rows, np.int32)
    arrays["imgname"] = np.array([f"S1/S1_Directions_1.54138969_{i + 1:06d}.jpg" for i in range(rows)])
    constants = {"subject": "S1", "action": "Directions", "camera": "54138969"}
    arrays |= {name: np.full(rows, value) for name, value in constants.items()}
    arrays["predicted_keypoints"] *= 1000
    arrays["predicted_da_depth"] += 4
    for name in filter(is_predicted, shapes):
        arrays[name][-1:] = 0
    xy, c, d = (arrays[f"predicted_{n}"] for n in ("keypoints", "keypoints_score", "da_depth"))
    arrays["xycd"] = np.concatenate([xy, c[..., None], d[..., None]], axis=-1)
    arrays["metadata"] = np.array(json.dumps({"schema": f"xycd {VERSION}", "mock": True}))
    return arrays


def is_predicted(name: str) -> bool:
    """Whether the array `name` holds detections, and so is zero where nothing was detected."""
    predicted = name.startswith(("predicted_", "depth_")) or name in ("valid_detection", "joint_valid", "xycd")
    return predicted or KEYS[name].group in ("statistics", "pose_embedding", "depth_embedding")
