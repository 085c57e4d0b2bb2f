"""Image files: known by their content, measured before they are decoded, always RGB of 8 bits.

Formats are JPEG, PNG, BMP, TIFF and WebP; the file's name doesn't matter. Grey becomes RGB, an alpha channel is
left out, 16 bits are scaled to 8, CMYK is converted, and the orientation in EXIF is applied, as viewers do, so
that x runs to the right of the upright picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from etl.errors import MediaError

COPY_AGAIN: Final = "Copy the file again from the release; other frames are used."
MAX_PIXELS: Final = 100_000_000

_PNG: Final = b"\x89PNG\r\n\x1a\n"


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image file.

    Parameters
    ----------
    path : Path
        The file.
    max_pixels : int
        Refuse images whose header declares more, before anything is allocated for them.

    Returns
    -------
    (H, W, 3) uint8
        RGB, upright.

    Raises
    ------
    MediaError
        When there is no such file, or it is empty, enormous, truncated, damaged or not an image.
    """
    return decode_image(load_image(path, max_pixels), image_rule(path), max_pixels)


def load_image(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of an image file, for `decode_image`.

    Raises
    ------
    MediaError
        When there is no such file, or it is larger than an image of `max_pixels` can be.
    """
    rule = image_rule(path)
    try:
        size = path.stat().st_size
        if size > 8 * max_pixels + (1 << 20):  # 8 bytes a pixel: RGBA of 16 bits, uncompressed
            raise MediaError(rule, f"{size} bytes, more than an image of {max_pixels} pixels takes", COPY_AGAIN)
        return path.read_bytes()
    except OSError as error:
        raise MediaError(rule, error.strerror or str(error), "Unpack the release completely.") from error


def image_rule(path: Path) -> str:
    """What an error about an image file says first."""
    return f"{path} must be a readable image."


def decode_image(
    data: bytes, rule: str = "Data must be a readable image.", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file; see `read_image`."""
    if not data:
        raise MediaError(rule, "0 bytes", COPY_AGAIN)
    try:
        width, height = image_size(data)
        if not 0 < width * height <= max_pixels:
            found = f"an image of {width}x{height} pixels"
            raise MediaError(rule, found, f"At most {max_pixels} pixels are decoded (max_pixels).")
        pixels = _decode_jpeg(data) if data.startswith(b"\xff\xd8") else _decode_other(data)
        return _turn(pixels, _orientation(data))
    except (ValueError, struct.error, IndexError, cv2.error) as error:
        raise MediaError(rule, " ".join(str(error).split())[:200], COPY_AGAIN) from error


def header_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture in an image file, without decoding it.

    Raises
    ------
    MediaError
        When the file is absent or its header isn't that of an image.
    """
    rule = f"{path} must be a readable image."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(rule, error.strerror or str(error), "Unpack the release completely.") from error
    try:
        width, height = image_size(data)
    except (ValueError, struct.error, IndexError) as error:
        raise MediaError(rule, " ".join(str(error).split())[:200] if data else "0 bytes", COPY_AGAIN) from error
    return (height, width) if _orientation(data) >= 5 else (width, height)


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header declares, before orientation.

    Raises
    ------
    ValueError
        When the content isn't of a known format.
    struct.error, IndexError
        When the header is cut off.
    """
    if data.startswith(b"\xff\xd8"):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return int(width), int(height)
    if data.startswith(_PNG):
        width, height = struct.unpack_from(">II", data, 16)
        return int(width), int(height)
    if data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(int(width)), abs(int(height))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        tags = dict(_tiff_tags(data))
        return tags.get(256, 0), tags.get(257, 0)
    raise ValueError("content that is none of JPEG, PNG, BMP, TIFF, WebP")


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    if simplejpeg.decode_jpeg_header(data)[2] != "CMYK":
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    inks = simplejpeg.decode_jpeg(data, "CMYK").astype(np.uint16)
    # Adobe's files, nearly all that there are, store 255 - ink.
    light = inks if any(body.startswith(b"Adobe") for _, body in _jpeg_segments(data)) else 255 - inks
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)


def _decode_other(data: bytes) -> NDArray[np.uint8]:
    if data.startswith(_PNG):
        _check_png(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("a truncated or damaged file")
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels of {pixels.dtype}")
    if pixels.ndim == 2:
        return np.ascontiguousarray(np.repeat(pixels[..., None], 3, axis=2))
    return np.ascontiguousarray(pixels[..., 2::-1])


def _check_png(data: bytes) -> None:
    """Refuse a PNG that is cut off or whose checksums don't fit; decoders may return what they have."""
    kind = b""
    for kind, body, checksum in _png_chunks(data):
        if zlib.crc32(kind + body) != checksum:
            raise ValueError(f"a damaged PNG: wrong checksum in its chunk {kind.decode('latin-1')!r}")
    if kind != b"IEND":
        raise ValueError("a truncated PNG")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield (type, body, checksum) of every complete chunk up to IEND."""
    start = len(_PNG)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            return
        yield kind, data[start + 8 : end - 4], struct.unpack_from(">I", data, end - 4)[0]
        if kind == b"IEND":
            return
        start = end


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, body) of the segments before the scan."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker == 0xFF:  # fill byte
            start += 1
            continue
        if marker == 0xDA:
            return
        length = struct.unpack_from(">H", data, start + 2)[0]
        yield marker, data[start + 4 : start + 2 + length]
        start += 2 + length


def _orientation(data: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, or none that makes sense."""
    tiff = b""
    if data.startswith(b"\xff\xd8"):
        tiff = next((b[6:] for m, b in _jpeg_segments(data) if m == 0xE1 and b.startswith(b"Exif\0\0")), b"")
    elif data.startswith(_PNG):
        tiff = next((body for kind, body, _ in _png_chunks(data) if kind == b"eXIf"), b"")
    elif data[:4] in (b"II*\0", b"MM\0*"):
        tiff = data
    try:
        value = dict(_tiff_tags(tiff)).get(274, 1) if tiff else 1
    except (struct.error, ValueError):
        return 1  # damaged metadata don't damage the picture
    return value if 1 <= value <= 8 else 1


def _turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Upright picture of one stored with an EXIF orientation."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarter_turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _tiff_tags(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (tag, first value) of the integer tags in the first directory of a TIFF structure."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("a TIFF structure of unknown byte order")
    start = struct.unpack_from(order + "I", data, 4)[0]
    for entry in range(struct.unpack_from(order + "H", data, start)[0]):
        tag, kind, _ = struct.unpack_from(order + "HHI", data, start + 2 + 12 * entry)
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        if code:
            yield int(tag), int(struct.unpack_from(order + code, data, start + 2 + 12 * entry + 8)[0])


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    raise ValueError("a WebP file of unknown kind")
