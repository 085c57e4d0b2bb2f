"""The packets of a video: which frame each holds, without decoding any.

Frame n is the n-th picture in order of display. A video's packets are listed by demultiplexing, and the rank of a
packet's presentation time is its frame's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from etl.errors import MediaError

COPY_AGAIN: Final = "Copy the file again from the release; its other frames are used."
UNKNOWN: Final = -1  # number of a packet whose frame isn't shown or can't be numbered
# Titles that aren't UTF-8 don't matter; PyAV is lenient by itself from version 19 on.
_LENIENT: Final[dict[str, Any]] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True)
class VideoIndex:
    """Packets of a video's first video stream, in order of decoding ("rank").

    Parameters
    ----------
    count : int
        Frames that the container promises.
    numbers : (R,) int64
        Frame number of each rank, or UNKNOWN.
    ranks : dict of int to int
        Rank by the packet's position in the file.
    keys : (K,) int64
        Ranks of key frames.
    stamps : (R,) int64
        Time stamp to seek to, by rank.
    by_output : bool
        Neither container nor codec tell the order of display beforehand (H.264 in AVI): number by counting
        pictures since the last key frame.
    cut : bool
        The container promises more packets than it holds.
    """

    count: int
    numbers: NDArray[np.int64]
    ranks: dict[int, int]
    keys: NDArray[np.int64]
    stamps: NDArray[np.int64]
    by_output: bool
    cut: bool
    rank_of: dict[int, int] = field(init=False)
    released: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        known = np.flatnonzero(self.numbers != UNKNOWN)
        object.__setattr__(self, "rank_of", dict(zip(self.numbers[known].tolist(), known.tolist(), strict=True)))
        object.__setattr__(self, "released", np.maximum.accumulate(self.numbers))

    def key_before(self, number: int) -> int:
        """Rank of the last key frame from which frame `number` can be decoded.

        A frame shown before the key frame that precedes it in the file (an open group of pictures) needs the
        key frame before that one.
        """
        rank = self.rank_of[number]
        for key in self.keys[: int(np.searchsorted(self.keys, rank, side="right"))][::-1].tolist():
            if 0 <= self.numbers[key] <= number:
                return int(key)
        return 0


@dataclass(frozen=True)
class _Entry:
    position: int
    pts: int | None
    dts: int | None
    key: bool
    discard: bool


def open_video(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a video's first video stream.

    Raises
    ------
    MediaError
        When the file is absent, empty or not a video.
    """
    rule = f"{path} must be a readable video."
    if not path.is_file():
        raise MediaError(rule, "no such file", "Unpack the release completely.")
    if path.stat().st_size == 0:
        raise MediaError(rule, "0 bytes", COPY_AGAIN)
    try:
        container = av.open(str(path), mode="r", **_LENIENT)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(rule, reason_of(error), COPY_AGAIN) from error
    if not container.streams.video:
        container.close()
        raise MediaError(rule, "a file without a video stream", COPY_AGAIN)
    stream = container.streams.video[0]
    if getattr(stream, "codec_context", None) is None:
        container.close()
        raise MediaError(rule, "a video stream of a codec that FFmpeg doesn't know", COPY_AGAIN)
    return container, stream


def count_frames(path: Path) -> int:
    """Number of frames that the container promises, without decoding.

    The container's table of frames counts (without those that its edit list hides); else the number in its
    header; else its packets are counted.
    """
    container, stream = open_video(path)
    with container:
        entries = list(stream.index_entries)
        if entries and len(entries) >= stream.frames:
            if stream.frames or container.format.name == "avi":
                return sum(not entry.is_discard for entry in entries)
        elif stream.frames:
            return int(stream.frames)
    return index_video(path).count


def rate_of(path: Path) -> float:
    """Frames per second, 0 where the container doesn't say."""
    container, stream = open_video(path)
    with container:
        return float(stream.average_rate or stream.guessed_rate or 0)


def index_video(path: Path) -> VideoIndex:
    """List the packets of a video; the latest few lists are kept in memory."""
    if not path.is_file():
        open_video(path)
    stat = path.stat()
    return _index(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _index(path: Path, size: int, mtime_ns: int) -> VideoIndex:
    container, stream = open_video(path)
    with container:
        table = [(int(e.pos), bool(e.is_keyframe), bool(e.is_discard), int(e.timestamp)) for e in stream.index_entries]
        packets = []
        try:
            for packet in container.demux(stream):
                if packet.size:
                    packets.append(
                        _Entry(
                            -1 if packet.pos is None else int(packet.pos),
                            packet.pts,
                            packet.dts,
                            packet.is_keyframe,
                            packet.is_discard,
                        )
                    )
        except (av.error.FFmpegError, ValueError) as error:
            if not packets and not table:
                raise MediaError(f"{path} must be a readable video.", reason_of(error), COPY_AGAIN) from error
        avi = container.format.name == "avi"
        reorders = bool(stream.codec_context.has_b_frames)
        cut = max(len(table), stream.frames) > len(packets)
        if not stream.frames and packets:  # no promise but the duration's
            end = max(_first(packet.pts, packet.dts) for packet in packets) * float(stream.time_base or 0)
            interval = 1 / float(stream.average_rate or stream.guessed_rate or 1)
            promised = (container.duration or 0) / av.time_base
            cut = cut or not promised or end < promised - 1.5 * interval
    return _number(packets, table, avi=avi, reorders=reorders, cut=cut)


def _number(
    packets: Sequence[_Entry], table: Sequence[tuple[int, bool, bool, int]], *, avi: bool, reorders: bool, cut: bool
) -> VideoIndex:
    """Number the frames of packets that were read, given the container's own table of packets where it has one."""
    # A table that holds every packet also tells of those that a damaged file no longer gives.
    shift = 8 if avi else 0  # AVI's table points at the 8 bytes before the data
    at = {position + shift: rank for rank, (position, *_) in enumerate(table)}
    complete = len(at) == len(table) >= len(packets) and all(packet.position in at for packet in packets)
    if not complete:
        at = {packet.position: rank for rank, packet in enumerate(packets)}
        table = [(p.position - shift, p.key, p.discard, _first(p.dts, p.pts)) for p in packets]
        if len(at) < len(packets):  # positions that don't tell packets apart: count packets as they come
            at = {}
    total = len(table)
    shown = np.array([not discard for _, _, discard, _ in table], bool)
    keys = np.array([rank for rank, (_, key, _, _) in enumerate(table) if key], np.int64)
    stamps = np.array([stamp for *_, stamp in table], np.int64)
    found = [at[packet.position] for packet in packets] if at else list(range(len(packets)))
    for rank, packet in zip(found, packets, strict=True):
        stamps[rank] = _first(packet.dts, packet.pts)
        shown[rank] &= not packet.discard
    count = int(shown.sum())

    times = [packet.pts for packet in packets]
    distinct = None not in times and len(set(times)) == len(times)
    increasing = distinct and all(a < b for a, b in pairwise(times))  # type: ignore[operator]
    in_order = np.where(shown, np.cumsum(shown) - 1, UNKNOWN)
    if not reorders or not packets or (avi and increasing) or not distinct:
        by_output = reorders and bool(packets)
        return VideoIndex(count, in_order, at, keys, stamps, by_output, cut)

    numbers = np.full(total, UNKNOWN, np.int64)
    visible = [(rank, packet) for rank, packet in zip(found, packets, strict=True) if shown[rank]]
    by_time = sorted(visible, key=lambda item: item[1].pts or 0)
    for number, (rank, _) in enumerate(by_time):
        numbers[rank] = number
    if cut:
        # A packet that is gone could have been shown before any frame that isn't older than the last packet
        # before the gap, so numbers hold only for frames shown before that; that packet's own time may be guessed.
        missing = min(set(range(total)) - set(found), default=total)
        before = [packet for rank, packet in zip(found, packets, strict=True) if rank < missing]
        last = max((_first(packet.dts, packet.pts) for packet in before), default=None)
        for rank, packet in visible:
            if last is None or rank > missing or _first(packet.pts, packet.dts) >= last:
                numbers[rank] = UNKNOWN
    return VideoIndex(count, numbers, at, keys, stamps, False, cut)


def _first(*values: int | None) -> int:
    return next((int(value) for value in values if value is not None), 0)


def reason_of(error: BaseException) -> str:
    """What FFmpeg complains of, in its words."""
    strerror = getattr(error, "strerror", None)
    return str(strerror or error).strip() or type(error).__name__
