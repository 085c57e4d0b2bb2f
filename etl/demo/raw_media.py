"""Writes videos and images of miniatures in the codecs of the releases."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
import simplejpeg
from numpy.typing import NDArray

# Of each codec: a quality that leaves joints where they are.
_OPTIONS: Final = {"libx264": {"crf": "18", "preset": "veryfast"}, "mpeg4": {"qmin": "2", "qmax": "3"}}


def write_video(
    path: Path, frames: Iterable[NDArray[np.uint8]], rate: int, codec: Literal["libx264", "mpeg4"] = "libx264"
) -> int:
    """Write RGB frames (H, W, 3), H and W even, at `rate` Hz; return how many.

    The suffix of `path` names the container. The codec is H.264 or MPEG-4 part 2.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=_OPTIONS[codec])
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.thread_count = 1
        for count, frame in enumerate(frames, 1):
            if count == 1:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return count


def write_images(folder: Path, pattern: str, frames: Iterable[NDArray[np.uint8]], first: int = 1) -> None:
    """Write RGB frames (H, W, 3) as JPEGs named by `pattern`, a template of {number}, which counts from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, first):
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95)
        (folder / pattern.format(number=number)).write_bytes(data)
