"""Small videos and images whose pixels say which frame they are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

BITS, COLUMNS, BLOCK = 12, 4, 32
HEIGHT, WIDTH = BLOCK * BITS // COLUMNS, BLOCK * COLUMNS


def numbered(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """RGB image (96, 128, 3) that shows `number` as bright and dark blocks; of a larger `size`, in its corner."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8).reshape(-1, COLUMNS)
    grey = np.where(bits, 220, 30).astype(np.uint8).repeat(BLOCK, 0).repeat(BLOCK, 1)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:HEIGHT, :WIDTH] = grey[..., None]
    return image


def number_of(image: np.ndarray) -> int:
    """The number that an image of `numbered` shows, after lossy coding."""
    centers = image[BLOCK // 2 : HEIGHT : BLOCK, BLOCK // 2 : WIDTH : BLOCK].mean(-1).reshape(-1)
    return int(sum(1 << bit for bit, value in enumerate(centers) if value > 125))


def write_video(
    path: Path,
    frames: int,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 0,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    **options: str,
) -> Path:
    """Write a video of numbered frames at 50 Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=50, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, size), "rgb24")))
        container.mux(stream.encode())
    return path
