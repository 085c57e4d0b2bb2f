"""A folder of what people really have: good pictures, odd ones and broken ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from etl import pipeline
from etl.config import Config, load
from etl.errors import DatasetError
from etl.results.features import open_features
from etl.store.failures import list_failures

GOOD = {"grey.png", "deep.png", "cmyk.jpg", "really_a_png.jpg", "plain.jpg"}
BAD = {"zero.jpg", "truncated.jpg", "text.jpg", "enormous.png"}


def enormous_png() -> bytes:
    """A header that promises 60000 x 60000 pixels, and nothing more: decoding it would take 10 GB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "pictures"
    folder.mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    cv2.imwrite(str(folder / "plain.jpg"), image)
    cv2.imwrite(str(folder / "grey.png"), image[..., 0])
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) * 257)
    Image.fromarray(image).convert("CMYK").save(folder / "cmyk.jpg")
    (folder / "really_a_png.jpg").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:5000])
    (folder / "text.jpg").write_text("this isn't a picture")
    (folder / "enormous.png").write_bytes(enormous_png())
    (folder / "notes.txt").write_text("neither is this")
    return tmp_path / "raw"


def configure(raw: Path, work: Path) -> Config:
    return load(
        None,
        {
            "workspace": str(work),
            "datasets": {"folder": {"root": str(raw)}},
            "models": {"set": "tests.etl.fakes:build"},
            "cluster": {"workers": 1},
        },
    )


def test_each_bad_picture_costs_itself_and_says_why(pictures: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in pictures.rglob("*") if p.is_file()}
    (summary,) = pipeline.run(configure(pictures, tmp_path / "w"))
    assert {p: p.read_bytes() for p in pictures.rglob("*") if p.is_file()} == before
    assert summary.rows == {"ok": len(GOOD), "decode_error": len(BAD)}
    assert summary.troubled
    assert not summary.outputs  # no ground truth, so nothing to train on
    found = list_failures(tmp_path / "w")
    assert len(found) == len(BAD)
    for name in BAD:
        (reason,) = found[found["reason"].str.contains(name, regex=False)]["reason"]
        assert len(reason) > len(name) + 10
    ds = open_features(tmp_path / "w").load()
    assert ds.sizes["frame"] == len(GOOD | BAD)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("nothing here")
    with pytest.raises(DatasetError, match="raw"):
        pipeline.run(configure(tmp_path / "raw", tmp_path / "w"))
