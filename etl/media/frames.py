"""Frames of images and videos: counted without decoding, decoded ahead with bounded memory."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from cluster.processors import cores
from etl.errors import MediaError
from etl.media.image import MAX_PIXELS, decode_image, image_rule, load_image
from etl.media.video import decode_video
from etl.media.video_index import count_frames, rate_of

Item = TypeVar("Item")

FILES_AHEAD: Final = 16 * 2**20  # bytes of image files that are read before they are decoded


@dataclass(frozen=True)
class Media:
    """What holds the frames of one sequence.

    Parameters
    ----------
    kind : {"video", "images", "list"}
        One video file; numbered image files; or image files listed one by one.
    path : str
        Relative to the dataset's root: the video, or the folder of the images.
    pattern : str
        For ``images``: file name as a `str.format` template of {number}.
    first : int
        For ``images``: the number of frame 0.
    names : tuple of str
        For ``list``: file names in order.
    """

    kind: Literal["video", "images", "list"]
    path: str
    pattern: str = ""
    first: int = 1
    names: tuple[str, ...] = ()

    def image_path(self, root: Path, number: int) -> Path:
        """Path of the image that holds frame `number` (0-based)."""
        name = self.names[number] if self.kind == "list" else self.pattern.format(number=self.first + number)
        return root / self.path / name

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, without those that don't apply."""
        if self.kind == "video":
            return {"kind": self.kind, "path": self.path}
        if self.kind == "images":
            return {"kind": self.kind, "path": self.path, "pattern": self.pattern, "first": self.first}
        return {"kind": self.kind, "path": self.path, "names": list(self.names)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Media:
        """Read what `to_dict` gave."""
        return cls(**{**values, "names": tuple(values.get("names", ()))})


@dataclass(frozen=True)
class DecodedFrame:
    """One frame that was asked for.

    Parameters
    ----------
    number : int
        0-based position in the media.
    image : (H, W, 3) uint8, optional
        RGB; None where it can't be decoded.
    error : str, optional
        Why it can't.
    """

    number: int
    image: NDArray[np.uint8] | None
    error: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return 1024 + (self.image.nbytes if self.image is not None else 0)


def frame_count(root: Path, media: Media) -> int:
    """Number of frames of `media` under `root`, without decoding any.

    Numbered images count up to the highest number that there is, gaps included.

    Raises
    ------
    MediaError
        When the media are absent or aren't readable as a video.
    """
    if media.kind == "list":
        return len(media.names)
    if media.kind == "video":
        return count_frames(root / media.path)
    numbers = [number for number, _ in _numbered(root, media)]
    return max(numbers, default=media.first - 1) - media.first + 1


def first_image(root: Path, media: Media) -> Path:
    """Path of the image of the lowest number that there is, of listed or numbered images.

    Raises
    ------
    MediaError
        When there is none.
    """
    path = media.image_path(root, 0)
    if media.kind == "list" or path.is_file():
        return path
    numbered = min(_numbered(root, media), key=lambda found: found[0], default=None)
    if numbered is None:
        raise MediaError(f"{path.parent} must have images.", "no images", "Unpack the release completely.")
    return Path(numbered[1].path)


def media_bytes(root: Path, media: Media) -> int:
    """Size of the video, or sum of the sizes of the images, in bytes; those that are absent count 0."""
    if media.kind == "images":
        return sum(entry.stat().st_size for _, entry in _numbered(root, media))
    paths = [root / media.path] if media.kind == "video" else [root / media.path / name for name in media.names]
    return sum(path.stat().st_size for path in paths if path.is_file())


def media_rate(root: Path, media: Media) -> float:
    """Frames per second of a video; 0 for images, and where the video doesn't say.

    Raises
    ------
    MediaError
        When the video is absent or unreadable.
    """
    return rate_of(root / media.path) if media.kind == "video" else 0.0


def decode(
    root: Path, media: Media, numbers: Sequence[int], *, threads: int = 0, max_pixels: int = MAX_PIXELS
) -> Generator[DecodedFrame, None, None]:
    """Decode frames of `media` under `root`.

    Parameters
    ----------
    root : Path
        The dataset's root.
    media : Media
        What holds the frames.
    numbers : sequence of int
        0-based numbers of the frames, strictly increasing.
    threads : int
        Decoding threads; 0 takes as many as there are processors, for images at most 4.
    max_pixels : int
        Larger frames aren't decoded.

    Yields
    ------
    DecodedFrame
        One for every number, in order; with a reason instead of an image where it can't be decoded.
    """
    numbers = [int(number) for number in numbers]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise ValueError("decode() takes strictly increasing frame numbers")
    if not numbers:
        return
    if media.kind == "video":
        for number, pixels, error in decode_video(root / media.path, numbers, threads, max_pixels):
            yield DecodedFrame(number, pixels, error)
        return

    def load(number: int) -> tuple[int, bytes | str]:
        if not 0 <= number < (len(media.names) if media.kind == "list" else number + 1):
            return number, f"There is no frame {number}: {media.path} has {len(media.names)}."
        try:
            return number, load_image(media.image_path(root, number), max_pixels)
        except MediaError as error:
            return number, str(error)

    def read(loaded: tuple[int, bytes | str]) -> DecodedFrame:
        number, data = loaded
        if isinstance(data, str):
            return DecodedFrame(number, None, data)
        try:
            return DecodedFrame(number, decode_image(data, image_rule(media.image_path(root, number)), max_pixels))
        except MediaError as error:
            return DecodedFrame(number, None, str(error))

    threads = threads or min(cores(), 4)
    if threads == 1:
        # Whoever decodes doesn't wait for the disk, which may be far away.
        files = read_ahead(map(load, numbers), MemoryBudget(FILES_AHEAD), lambda loaded: len(loaded[1]))
        with contextlib.closing(files):
            yield from map(read, files)
        return
    with ThreadPoolExecutor(threads, "decode") as pool:
        pending: deque[Future[DecodedFrame]] = deque()
        try:
            for number in numbers:
                pending.append(pool.submit(lambda wanted: read(load(wanted)), number))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class MemoryBudget:
    """Bytes that may wait to be taken, in all queues that share it.

    Parameters
    ----------
    max_bytes : int
        The bound.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.changed = threading.Condition()


def read_ahead(
    items: Iterable[Item],
    room: MemoryBudget,
    size: Callable[[Item], int] = lambda item: int(getattr(item, "nbytes", 0)),
) -> Generator[Item, None, None]:
    """Yield what `items` yields, computed ahead from now on in a thread, while there is room for what waits.

    Besides, the thread holds one item that doesn't fit yet, and one item may wait however little room there is.
    An exception of `items` is raised after the items before it. The thread ends with the iterator: at its end,
    when it is closed, and when it is collected.
    """
    ahead = _read_ahead(items, room, size)
    next(ahead)  # starts the thread
    return cast("Generator[Item, None, None]", ahead)


def _read_ahead(
    items: Iterable[Item], room: MemoryBudget, size: Callable[[Item], int]
) -> Generator[Item | None, None, None]:
    """`read_ahead`, after a None that says that the thread has been started."""
    queue = _ByteQueue[Item](room)

    def fill() -> None:
        source = iter(items)
        try:
            for item in source:
                if not queue.put(item, size(item)):
                    break
            queue.end(None)
        except BaseException as error:  # whatever it is belongs to the consumer, who raises it
            queue.end(error)
        finally:
            close = getattr(source, "close", None)
            if close:
                close()

    thread = threading.Thread(target=fill, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield None
        yield from queue.drain()
    finally:
        queue.stop()
        thread.join()


class _ByteQueue(Generic[Item]):
    """A queue of one producer and one consumer, bounded in bytes."""

    def __init__(self, room: MemoryBudget) -> None:
        self.room, self.changed = room, room.changed
        self.items: deque[tuple[Item, int]] = deque()
        self.stopped = self.ended = False
        self.error: BaseException | None = None

    def put(self, item: Item, size: int) -> bool:
        """Add `item` when there is room; False once the consumer has stopped."""
        room = self.room
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or not self.items or room.bytes + size <= room.max_bytes)
            if self.stopped:
                return False
            self.items.append((item, size))
            room.bytes += size
            self.changed.notify_all()
            return True

    def end(self, error: BaseException | None) -> None:
        """Say that nothing comes any more, because of `error` if there is one."""
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()

    def stop(self) -> None:
        """Say that nothing is taken any more."""
        with self.changed:
            self.stopped = True
            self.room.bytes -= sum(size for _, size in self.items)
            self.items.clear()
            self.changed.notify_all()

    def drain(self) -> Iterator[Item]:
        """Yield items until the end, then raise the producer's error."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.items or self.ended)
                if not self.items:
                    break
                item, size = self.items.popleft()
                self.room.bytes -= size
                self.changed.notify_all()
            yield item
            del item
        if self.error is not None:
            raise self.error


def _numbered(root: Path, media: Media) -> Iterator[tuple[int, os.DirEntry[str]]]:
    """Yield (number, directory entry) of the images that fit the pattern, in any order."""
    before, _, after = media.pattern.partition("{")
    after = after.partition("}")[2]
    pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    folder = root / media.path
    if not folder.is_dir():
        raise MediaError(f"{folder} must be a folder of images.", "no such folder", "Unpack the release completely.")
    with os.scandir(folder) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match and media.pattern.format(number=int(match[1])) == entry.name and int(match[1]) >= media.first:
                yield int(match[1]), entry
