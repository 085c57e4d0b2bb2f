from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from etl.errors import MediaError
from etl.media import frames as module
from etl.media.frames import DecodedFrame, Media, MemoryBudget, decode, frame_count, media_bytes, media_rate, read_ahead
from tests.etl.datasets.media import number_of, numbered


@pytest.fixture
def images(tmp_path: Path) -> Media:
    """20 numbered images, the first numbered 1; number 8 is absent, 11 empty, 13 text."""
    folder = tmp_path / "seq"
    folder.mkdir()
    for number in range(1, 21):
        (folder / f"seq_{number:06d}.jpg").write_bytes(simplejpeg.encode_jpeg(numbered(number - 1)))
    (folder / "seq_000008.jpg").unlink()
    (folder / "seq_000011.jpg").write_bytes(b"")
    (folder / "seq_000013.jpg").write_text("not an image")
    (folder / "other_000099.jpg").write_bytes(b"")
    (folder / "seq_99.jpg").write_bytes(b"")
    return Media("images", "seq", "seq_{number:06d}.jpg", first=1)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_numbered_images(images: Media, tmp_path: Path, threads: int) -> None:
    got = list(decode(tmp_path, images, range(20), threads=threads))
    assert [frame.number for frame in got] == list(range(20))
    shown = {frame.number: number_of(frame.image) for frame in got if frame.image is not None}
    assert shown == {n: n for n in range(20) if n not in (7, 10, 12)}
    assert all(frame.error for frame in got if frame.image is None)
    assert frame_count(tmp_path, images) == 20
    assert media_rate(tmp_path, images) == 0
    assert media_bytes(tmp_path, images) == sum(p.stat().st_size for p in (tmp_path / "seq").glob("seq_0*.jpg"))


def test_one_thread_decodes_what_another_has_read(
    images: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: dict[str, set[str]] = {"load_image": set(), "decode_image": set()}

    def noted(name: str) -> Callable[..., Any]:
        function = getattr(module, name)

        def call(*arguments: Any) -> Any:
            by[name].add(threading.current_thread().name)
            return function(*arguments)

        return call

    for name in by:
        monkeypatch.setattr(module, name, noted(name))
    decoded = decode(tmp_path, images, range(20), threads=1)
    next(iter(decoded))
    decoded.close()  # type: ignore[attr-defined]
    assert by == {"load_image": {"read-ahead"}, "decode_image": {threading.current_thread().name}}
    assert read_ahead_threads() == 0


def test_listed_images(images: Media, tmp_path: Path) -> None:
    media = Media("list", "seq", names=("seq_000003.jpg", "seq_000001.jpg", "none.jpg"))
    got = list(decode(tmp_path, media, [0, 1, 2, 3]))
    assert [None if frame.image is None else number_of(frame.image) for frame in got] == [2, 0, None, None]
    assert frame_count(tmp_path, media) == 3
    assert media_bytes(tmp_path, media) > 0


def test_an_absent_folder_of_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such folder"):
        frame_count(tmp_path, Media("images", "none", "{number:06d}.jpg"))


def test_media_survive_json(images: Media) -> None:
    for media in (images, Media("video", "a.mp4"), Media("list", "a", names=("1.png",))):
        assert Media.from_dict(media.to_dict()) == media


@pytest.mark.parametrize("numbers", [[3, 3], [4, 2]])
def test_numbers_must_increase(images: Media, tmp_path: Path, numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        list(decode(tmp_path, images, numbers))


def frames(count: int, made: list[int]) -> Iterator[DecodedFrame]:
    for number in range(count):
        made.append(number)
        yield DecodedFrame(number, np.zeros((10, 100, 3), np.uint8))


def read_ahead_threads() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


def wait_until(true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)


def test_read_ahead_keeps_order_and_ends_its_thread() -> None:
    made: list[int] = []
    assert [frame.number for frame in read_ahead(frames(50, made), MemoryBudget(10_000))] == list(range(50))
    assert read_ahead_threads() == 0


def test_read_ahead_is_bounded_in_bytes() -> None:
    made: list[int] = []
    size = 1024 + 3000
    ahead = read_ahead(frames(100, made), MemoryBudget(5 * size))
    for taken in range(1, 40):
        next(ahead)
        # Five wait in the queue, one is in the thread's hand.
        wait_until(lambda n=taken: len(made) >= n + 6)
        time.sleep(0.002)
        assert len(made) == taken + 6
    ahead.close()  # type: ignore[attr-defined]
    assert read_ahead_threads() == 0


def test_an_item_larger_than_the_bound_passes_alone() -> None:
    made: list[int] = []
    assert len(list(read_ahead(frames(10, made), MemoryBudget(1)))) == 10


def test_what_shares_a_room_is_bounded_together() -> None:
    size, room = 1024 + 3000, MemoryBudget(5 * (1024 + 3000))
    made: tuple[list[int], list[int]] = ([], [])
    first, second = (read_ahead(frames(100, numbers), room) for numbers in made)
    wait_until(lambda: len(made[0]) + len(made[1]) >= 7)
    time.sleep(0.01)
    # Five wait, and one is in each thread's hand; a queue that has nothing waiting may have one however full it is.
    assert sum(map(len, made)) in (7, 8)
    assert room.bytes <= 6 * size
    first.close()
    assert room.bytes == 5 * size or len(made[1]) < 6
    wait_until(lambda: len(made[1]) >= 6)
    assert [frame.number for frame in second] == list(range(100))
    assert room.bytes == 0
    assert read_ahead_threads() == 0


@pytest.mark.parametrize("how", ["close", "collect", "raise"])
def test_read_ahead_ends_with_its_consumer(how: str) -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.set()

    ahead = read_ahead(source(), MemoryBudget(8), lambda item: 1)
    assert next(ahead) == 0
    if how == "close":
        ahead.close()  # type: ignore[attr-defined]
    elif how == "raise":
        with pytest.raises(KeyError):
            ahead.throw(KeyError())  # type: ignore[attr-defined]
    else:
        del ahead
        gc.collect()
    assert closed.is_set()
    assert read_ahead_threads() == 0


def test_read_ahead_raises_what_its_source_raised_after_the_items_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise MediaError("A rule.", "something", "Fix it.")

    ahead = read_ahead(source(), MemoryBudget(100))
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(MediaError, match="something"):
        next(ahead)
    assert read_ahead_threads() == 0
