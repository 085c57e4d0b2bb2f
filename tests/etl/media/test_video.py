from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import MediaError
from etl.media.frames import Media, decode, frame_count, media_bytes, media_rate
from etl.media.video_index import index_video
from tests.etl.datasets.media import HEIGHT, WIDTH, number_of, write_video

FRAMES = 100
KINDS = {
    "h264-b": ("a.mp4", {"codec": "libx264", "gop": 12, "b_frames": 2}),
    "h264-b-pyramid": ("b.mp4", {"codec": "libx264", "gop": 30, "b_frames": 5, "x264-params": "b-pyramid=normal"}),
    "h264-open": ("c.mp4", {"codec": "libx264", "gop": 10, "b_frames": 3, "x264-params": "open-gop=1"}),
    "h264-one-gop": ("d.mp4", {"codec": "libx264", "gop": 1000, "b_frames": 2}),
    "h264-avi": ("e.avi", {"codec": "libx264", "gop": 12, "b_frames": 2}),
    "h264-mkv": ("f.mkv", {"codec": "libx264", "gop": 12, "b_frames": 2}),
    "mpeg4-avi": ("g.avi", {"codec": "mpeg4", "gop": 12}),
    "mpeg4-b-avi": ("h.avi", {"codec": "mpeg4", "gop": 12, "b_frames": 2}),
    "mpeg4-b-mp4": ("i.mp4", {"codec": "mpeg4", "gop": 7, "b_frames": 2}),
    "mjpeg-avi": ("j.avi", {"codec": "mjpeg"}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {kind: write_video(folder / name, FRAMES, **options) for kind, (name, options) in KINDS.items()}


def read(path: Path, numbers: list[int], threads: int = 2) -> dict[int, int | None]:
    """What each decoded frame shows, None for errors; every frame asked for is there, in order."""
    got = list(decode(path.parent, Media("video", path.name), numbers, threads=threads))
    assert [frame.number for frame in got] == numbers
    assert all((frame.image is None) == (frame.error is not None) for frame in got)
    return {frame.number: None if frame.image is None else number_of(frame.image) for frame in got}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 4])
def test_every_frame_has_its_number(videos: dict[str, Path], kind: str, threads: int) -> None:
    assert read(videos[kind], list(range(FRAMES)), threads) == {n: n for n in range(FRAMES)}
    assert frame_count(videos[kind].parent, Media("video", videos[kind].name)) == FRAMES
    assert media_rate(videos[kind].parent, Media("video", videos[kind].name)) == 50
    assert media_bytes(videos[kind].parent, Media("video", videos[kind].name)) == videos[kind].stat().st_size


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(KINDS)), st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=8))
def test_any_subset_has_its_numbers(videos: dict[str, Path], kind: str, numbers: set[int]) -> None:
    assert read(videos[kind], sorted(numbers)) == {n: n for n in numbers}


@pytest.mark.parametrize("kind", ["h264-b", "h264-open", "mpeg4-b-avi", "mpeg4-avi"])
def test_decoding_starts_at_the_key_frame_before(videos: dict[str, Path], kind: str) -> None:
    index = index_video(videos[kind])
    gop = KINDS[kind][1]["gop"]
    start = index.key_before(60)
    assert 60 - 2 * int(gop) <= start <= 60


def test_a_frame_is_rgb(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "red.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        image = np.zeros((48, 64, 3), np.uint8)
        image[..., 0] = 230
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    frame = next(iter(decode(tmp_path, Media("video", "red.mp4"), [0])))
    assert frame.image is not None
    assert frame.image.shape == (48, 64, 3)
    assert frame.image.dtype == np.uint8
    assert frame.image.flags.c_contiguous
    assert abs(frame.image.reshape(-1, 3).mean(0) - [230, 0, 0]).max() < 6


def test_frames_beyond_the_end_are_errors(videos: dict[str, Path]) -> None:
    got = read(videos["h264-b"], [FRAMES - 1, FRAMES, FRAMES + 7])
    assert got == {FRAMES - 1: FRAMES - 1, FRAMES: None, FRAMES + 7: None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_damage_costs_frames_around_it_and_shifts_none(
    videos: dict[str, Path], tmp_path: Path, kind: str, seed: int
) -> None:
    data = bytearray(videos[kind].read_bytes())
    rng = np.random.default_rng(seed)
    # The middle of the packets of frames 40 to 45, well inside the third quarter of no video's headers.
    with av.open(str(videos[kind])) as container:
        packets = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]
    for position, size in packets[40:46]:
        start = position + size // 4
        data[start : position + size] = rng.integers(0, 256, position + size - start, dtype=np.uint8).tobytes()
    path = tmp_path / videos[kind].name
    path.write_bytes(bytes(data))
    threaded = read(path, list(range(FRAMES)), threads=4)
    assert threaded == read(path, list(range(FRAMES)), threads=1)
    shown = {n: value for n, value in threaded.items() if value is not None}
    wrong = {n: value for n, value in shown.items() if value != n and not 36 <= n <= 52}
    assert not wrong
    intact = 36 if kind != "h264-one-gop" else 40 - 4
    assert all(shown.get(n) == n for n in range(intact))
    if kind != "h264-one-gop":
        assert all(shown.get(n) == n for n in range(72, FRAMES))


@pytest.mark.parametrize("share", [0.7, 0.71, 0.72, 0.73, 0.95])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_video_gives_the_frames_it_has(
    videos: dict[str, Path], tmp_path: Path, kind: str, share: float
) -> None:
    path = tmp_path / videos[kind].name
    if path.suffix == ".mp4":
        fast_start(videos[kind], path)
    else:
        path.write_bytes(videos[kind].read_bytes())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    got = read(path, list(range(FRAMES)))
    good = {n for n, value in got.items() if value is not None}
    assert all(got[n] == n for n in good)
    assert len(good) >= 25
    assert len(good) < FRAMES or share > 0.9  # the end of an AVI is its index, which isn't needed
    assert good == set(range(len(good)))


def fast_start(source: Path, target: Path) -> None:
    """Rewrite an mp4 with its tables at the front."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 100, "moov"])
def test_an_unreadable_video_costs_its_frames_with_a_reason(
    videos: dict[str, Path], tmp_path: Path, content: bytes | str
) -> None:
    path = tmp_path / "a.mp4"
    # An mp4's tables stand at its end, so half of one has none.
    data = videos["h264-b"].read_bytes()
    path.write_bytes(data[: len(data) // 2] if isinstance(content, str) else content)
    got = list(decode(tmp_path, Media("video", "a.mp4"), [0, 3, 9]))
    assert [(frame.number, frame.image) for frame in got] == [(0, None), (3, None), (9, None)]
    assert all(frame.error and "a.mp4" in frame.error for frame in got)
    with pytest.raises(MediaError, match=r"a\.mp4 must be a readable video"):
        frame_count(tmp_path, Media("video", "a.mp4"))


def test_an_unknown_codec_is_an_error(videos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "g.avi").write_bytes(videos["mpeg4-avi"].read_bytes().replace(b"FMP4", b"ZZZZ"))
    (frame,) = decode(tmp_path, Media("video", "g.avi"), [0])
    assert "codec" in str(frame.error)


def test_an_absent_video_says_so(tmp_path: Path) -> None:
    (frame,) = decode(tmp_path, Media("video", "none.mp4"), [0])
    assert "no such file" in str(frame.error)


def test_large_frames_are_not_decoded(videos: dict[str, Path]) -> None:
    path = videos["h264-b"]
    (frame,) = decode(path.parent, Media("video", path.name), [0], max_pixels=WIDTH * HEIGHT - 1)
    assert f"{WIDTH}x{HEIGHT}" in str(frame.error)


def test_a_turned_video_is_upright(videos: dict[str, Path], tmp_path: Path) -> None:
    # A phone writes the rotation into the track header's matrix; 90 degrees clockwise to be shown.
    data = bytearray(videos["h264-b"].read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", data, at)[0] == 1 << 16
    struct.pack_into(">9i", data, at, 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(bytes(data))
    (turned,) = decode(tmp_path, Media("video", "turned.mp4"), [5])
    (plain,) = decode(videos["h264-b"].parent, Media("video", "a.mp4"), [5])
    assert turned.image is not None
    assert plain.image is not None
    assert np.array_equal(turned.image, np.rot90(plain.image, -1))


def test_sample_video_has_795_frames(samples: Path) -> None:
    media = Media("video", "video/vtest.avi")
    assert frame_count(samples, media) == 795
    got = list(decode(samples, media, [0, 400, 794, 795]))
    assert [frame.image is not None for frame in got] == [True, True, True, False]
    with av.open(str(samples / media.path)) as container:
        truth = [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i in (0, 400, 794)]
    assert all(np.array_equal(frame.image, image) for frame, image in zip(got, truth, strict=False))


def test_a_title_that_is_not_utf_8_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "titled.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "café"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert content.count("café".encode()) == 1
    path.write_bytes(content.replace("café".encode(), b"caf\xff\xfe"))
    assert index_video(path).count == 2
