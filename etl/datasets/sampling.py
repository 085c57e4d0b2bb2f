"""Which frames of a sequence are annotated: at the rate asked for, and no further than poses and media go."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etl.errors import DatasetError, MediaError
from etl.media.frames import Media, first_image, frame_count, media_bytes
from etl.media.image import header_size
from etl.media.video_index import open_video


def step_between(rate_hz: float, wanted_hz: float | None) -> int:
    """Every how many frames one is taken so that media of `rate_hz` give `wanted_hz`; None takes all.

    Raises
    ------
    DatasetError
        When no whole step does.
    """
    if wanted_hz is None:
        return 1
    step = round(rate_hz / wanted_hz)
    if step < 1 or abs(step * wanted_hz - rate_hz) > 1e-6 * rate_hz:
        rates = ", ".join(f"{rate_hz / divisor:g}" for divisor in (1, 2, 5) if rate_hz % divisor == 0)
        raise DatasetError(
            f"The rate must be that of the media, {rate_hz:g} Hz, divided by a whole number.",
            f"{wanted_hz:g} Hz asked for",
            f"Use {rates} or another divisor.",
        )
    return step


def choose_rows(poses: int, media_frames: int | None, step: int = 1) -> tuple[NDArray[np.int32], list[str]]:
    """Frames that have a pose and an image, every `step`-th from the first.

    Parameters
    ----------
    poses : int
        Number of poses.
    media_frames : int, optional
        Number of frames of the media; None where there is no media to compare with.
    step : int
        1 takes all.

    Returns
    -------
    frames : (N,) int32
        0-based numbers of the frames.
    notes : list of str
        What was left out and why; empty when poses and media have the same length.
    """
    notes = []
    usable = poses
    if media_frames is not None and media_frames != poses:
        usable = min(poses, media_frames)
        left_out = "poses" if poses > media_frames else "frames without a pose"
        number = abs(poses - media_frames)
        notes.append(f"{poses} poses, {media_frames} frames: the last {number} {left_out} are left out")
    return np.arange(0, usable, step, dtype=np.int32), notes


def measure_media(root: Path, media: Media) -> tuple[int | None, int, list[str]]:
    """Frames (None where they can't be counted), bytes and notes of a sequence's media.

    Media that are absent or unreadable cost their frames in estimate, not the annotation.
    """
    try:
        frames, size = frame_count(root, media), media_bytes(root, media)
    except MediaError as error:
        return None, 0, [f"frames aren't counted: {error}"]
    if not frames:
        return None, size, [f"frames aren't counted: there are none in {media.path}"]
    return frames, size, []


def picture_size(root: Path, media: Media) -> tuple[int, int] | None:
    """Width and height of a video's frames, or of the first image when upright; None where it can't be read."""
    try:
        if media.kind == "video":
            container, stream = open_video(root / media.path)
            with container:
                return int(stream.width), int(stream.height)
        return header_size(first_image(root, media))
    except (IndexError, MediaError):  # IndexError: a list without images
        return None


def require_size(
    root: Path, media: Media, width: int, height: int, others: Collection[tuple[int, int]] = ()
) -> tuple[int, int]:
    """Width and height of the media's frames; refuses a size that the camera isn't calibrated for.

    Parameters
    ----------
    root, media
        Media that can't be read pass: their frames are reported when they are decoded.
    width, height : int
        What the calibration says.
    others : collection of (int, int)
        Sizes that the release has, too.
    """
    size = picture_size(root, media) or (width, height)
    if size != (width, height) and size not in others:
        raise DatasetError(
            f"Frames of {root / media.path} must be {width}x{height}, as in the camera's calibration.",
            f"frames of {size[0]}x{size[1]}",
            "Use the release's own media: 2D joints and camera don't fit resized ones.",
        )
    return size
