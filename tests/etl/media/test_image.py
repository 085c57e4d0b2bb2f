from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from etl.errors import MediaError
from etl.media.image import decode_image, header_size, read_image


@pytest.fixture
def picture() -> np.ndarray:
    """RGB picture (40, 64, 3) whose four quarters are red, green, blue and grey."""
    image = np.zeros((40, 64, 3), np.uint8)
    image[:20, :32] = [220, 30, 40]
    image[:20, 32:] = [20, 200, 60]
    image[20:, :32] = [30, 50, 210]
    image[20:, 32:] = 128
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_come_back_exactly(picture: np.ndarray, tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    # The name is wrong on purpose: the content tells.
    (tmp_path / "a.jpg").write_bytes(encoded(Image.fromarray(picture), kind, **options))
    got = read_image(tmp_path / "a.jpg")
    assert np.array_equal(got, picture)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert header_size(tmp_path / "a.jpg") == (64, 40)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_colour_space(picture: np.ndarray, mode: str) -> None:
    source = Image.fromarray(picture).convert(mode)
    data = encoded(source, "JPEG", quality=98, subsampling=0)
    truth = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data).astype(int) - truth).max() <= 2


def test_jpeg_of_inks_with_black(picture: np.ndarray) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[...] = [255, 51, 102, 128]
    data = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    light = (255 - inks[0, 0].astype(float)) / 255
    assert np.abs(decode_image(data)[8, 8] - 255 * light[:3] * light[3]).max() <= 3


def test_png_of_16_bits_is_scaled() -> None:
    ramp = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    grey = cv2.imencode(".png", ramp)[1].tobytes()
    assert decode_image(grey)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    colour = np.stack([ramp, ramp * 0, ramp * 0 + 65535], -1)  # BGR
    got = decode_image(cv2.imencode(".png", colour)[1].tobytes())
    assert got[0, :, 2].tolist() == [0, 0, 1, 1, 128, 255]
    assert (got[..., 0] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1"])
def test_png_of_any_mode_is_rgb(picture: np.ndarray, mode: str) -> None:
    source = Image.fromarray(picture).convert(mode)
    if mode in ("RGBA", "LA"):
        source.putalpha(100)
    assert np.array_equal(decode_image(encoded(source, "PNG")), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(picture: np.ndarray, tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture), kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {}))
    truth = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    got = decode_image(data)
    assert got.shape == truth.shape
    assert np.abs(got.astype(int) - truth).max() <= 2
    (tmp_path / "a").write_bytes(data)
    assert header_size(tmp_path / "a") == (truth.shape[1], truth.shape[0])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_truncated_images_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    (tmp_path / "a.img").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"a\.img must be a readable image"):
        read_image(tmp_path / "a.img")


def test_a_damaged_png_is_refused(picture: np.ndarray) -> None:
    data = bytearray(encoded(Image.fromarray(picture), "PNG"))
    data[60] ^= 0xFF
    with pytest.raises(MediaError, match="checksum"):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes"), (b"hello, I am text\n" * 20, "none of JPEG"), (b"\xff\xd8\xff\xe0", "a readable image")],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(MediaError, match=reason):
        header_size(tmp_path / "a.jpg")


def test_an_absent_image_says_so(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        read_image(tmp_path / "none.jpg")


def test_enormous_images_are_refused_by_their_header() -> None:
    # A PNG of 60000 x 60000 pixels in a few bytes: 10.8 GB if anyone decoded it.
    data = bytearray(encoded(Image.new("RGB", (10, 10)), "PNG"))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(MediaError, match="60000x60000"):
        decode_image(bytes(data))


def test_enormous_files_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(MediaError, match="1099511627776 bytes"):
        read_image(tmp_path / "a.jpg")


def test_real_samples_decode_as_other_readers_do(samples: Path) -> None:
    paths = sorted(samples.glob("**/*.jpg"))
    assert len(paths) >= 5
    for path in paths:
        truth = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(read_image(path).astype(int) - truth).max() <= 3
