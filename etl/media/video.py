"""Videos: exact frame numbers, whatever the container, and honest damage.

Each packet goes to the decoder with its own rank (etl.media.video_index) in place of its time stamp, and the
picture that comes out carries it back. So a picture that never comes out can't shift the numbers of the others, and
decoding may start at any key frame.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from etl.errors import MediaError
from etl.media.video_index import UNKNOWN, VideoIndex, index_video, open_video, reason_of

# In these codecs nothing refers to a B-frame, so a damaged one costs itself only.
_B_NEVER_REFERENCE: Final = frozenset({"mpeg4", "msmpeg4v3", "mpeg2video", "mpeg1video"})


def decode_video(
    path: Path, numbers: Sequence[int], threads: int, max_pixels: int
) -> Iterator[tuple[int, NDArray[np.uint8] | None, str | None]]:
    """Yield (number, RGB image or None, reason or None) for every one of the sorted `numbers`.

    A damaged frame costs itself and the frames that are predicted from it, up to the next key frame: FFmpeg
    would hide the damage, and the pixels would be wrong without a word.
    """
    try:
        index = index_video(path)
        container, stream = open_video(path)
    except MediaError as error:
        yield from ((number, None, str(error)) for number in numbers)
        return
    with container:
        width, height = stream.width, stream.height
    if width * height > max_pixels or width * height == 0:
        reason = f"{path.name} has frames of {width}x{height}; between 1 and {max_pixels} pixels are allowed."
        yield from ((number, None, reason) for number in numbers)
        return
    position = 0
    while position < len(numbers):
        number = numbers[position]
        if number not in index.rank_of:
            gone = f"The video ends before its frame {number}" if number < index.count else "There is no such frame"
            yield number, None, f"{gone}: {path.name} promises {index.count} frames."
            position += 1
            continue
        run = _Run(path, index, numbers[position:], threads, max_pixels)
        for result in run.results():
            yield result
            position += 1
        # A run with several threads ends where it meets damage. One thread goes on from there, because what a
        # threaded decoder loses besides the damaged frame depends on their number, and results must not.
        threads = 1


class _Run:
    """One pass of a decoder from the key frame before the first of `numbers`."""

    def __init__(self, path: Path, index: VideoIndex, numbers: Sequence[int], threads: int, max_pixels: int) -> None:
        self.path, self.index, self.max_pixels = path, index, max_pixels
        self.threads = 1 if index.by_output and index.cut else threads
        self.wanted = [number for number in numbers if number in index.rank_of]
        self.numbers = numbers
        self.start = index.key_before(self.wanted[0])
        self.bad: list[int] = []  # ranks of damaged frames that others are predicted from, sorted
        self.alone: dict[int, str] = {}  # reason of damage by number
        self.reason = ""  # the decoder's latest complaint
        self.latest = int(index.numbers[self.start]) - 1  # the number that came out last

    def results(self) -> Iterator[tuple[int, NDArray[np.uint8] | None, str | None]]:
        """Yield a result for numbers in turn, until the last of them or until damage stops a threaded run."""
        queue = deque(self.numbers)
        held: deque[tuple[int, VideoFrame]] = deque()

        def settle(number: int) -> Iterator[tuple[int, NDArray[np.uint8] | None, str | None]]:
            """Everything wanted up to and including `number`, which must be settled."""
            while queue and queue[0] <= number:
                wanted = queue.popleft()
                while held and held[0][0] < wanted:
                    held.popleft()
                frame = held.popleft()[1] if held and held[0][0] == wanted else None
                yield self._result(wanted, frame)

        for number, frame in self._pictures():
            damaged = number > self.latest + 1 or frame.is_corrupt
            if damaged and self.threads != 1:
                return
            self._note(number, frame)
            if queue and number >= queue[0] and number in self.index.rank_of:
                held.append((number, frame))
            self.latest = number
            # A frame is judged once all that it can be predicted from has come out or failed to.
            ready = [n for n, _ in held if self.index.by_output or self._needs(n) <= number]
            if ready:
                yield from settle(max(ready))
            if not queue:
                return
        if self.threads != 1 and (self.reason or self.latest < max(self.wanted)):
            return
        self._note(int(self.index.numbers.max()) + 1, None)
        yield from settle(self.numbers[-1])

    def _needs(self, number: int) -> int:
        return int(self.index.released[self.index.rank_of[number]])

    def _note(self, number: int, frame: VideoFrame | None) -> None:
        """Remember the frames between the latest and `number` that didn't come out, and whether `frame` is damaged."""
        lost = [n for n in range(self.latest + 1, number) if n in self.index.rank_of]
        for gone in lost:
            self.alone[gone] = f"Frame {gone} of {self.path.name} can't be decoded{self.reason and ': ' + self.reason}."
            self.bad.append(self.index.rank_of[gone])
        if frame is not None and frame.is_corrupt and number in self.index.rank_of:
            self.alone[number] = f"Frame {number} of {self.path.name} is damaged."
            predicted_from = frame.pict_type != av.video.frame.PictureType.B or not self._spares_b
            if predicted_from:
                self.bad.append(self.index.rank_of[number])
        self.bad.sort()

    def _result(self, number: int, frame: VideoFrame | None) -> tuple[int, NDArray[np.uint8] | None, str | None]:
        if number not in self.index.rank_of:
            return number, None, f"There is no frame {number}: {self.path.name} has {self.index.count} that are usable."
        if number in self.alone or frame is None:
            return number, None, self.alone.get(number, f"Frame {number} of {self.path.name} didn't come out.")
        first, last = self.index.key_before(number), self.index.rank_of[number]
        place = bisect_left(self.bad, first)
        if place < len(self.bad) and self.bad[place] <= last:
            cause = int(self.index.numbers[self.bad[place]])
            return (
                number,
                None,
                f"Frame {number} of {self.path.name} is predicted from frame {cause}, which is damaged.",
            )
        if frame.width * frame.height > self.max_pixels:
            return number, None, f"Frame {number} of {self.path.name} has {frame.width}x{frame.height} pixels."
        try:
            image = frame.to_ndarray(format="rgb24")
        except (av.error.FFmpegError, ValueError) as error:
            return number, None, f"Frame {number} of {self.path.name} can't be converted: {reason_of(error)}."
        turns = round(frame.rotation / 90) % 4
        return number, np.ascontiguousarray(np.rot90(image, turns)), None

    def _pictures(self) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (number, picture) in order of display, from the starting key frame on."""
        container, stream = open_video(self.path)
        with container:
            stream.thread_type = "AUTO" if self.threads != 1 else "NONE"
            stream.codec_context.thread_count = self.threads
            self._spares_b = stream.codec_context.name in _B_NEVER_REFERENCE
            base, shown, intact = self.start, 0, True
            keys = set(self.index.keys.tolist())
            for rank, frame in self._decoded(container, stream):
                if frame is None:
                    intact = False
                    continue
                number = int(self.index.numbers[rank])
                if self.index.by_output:
                    if rank in keys:
                        base, shown, intact = rank, 0, True
                    number = int(self.index.numbers[base]) + shown
                    shown += 1
                    intact = intact and not frame.is_corrupt
                    if not intact:
                        continue
                if number > self.latest:
                    yield number, frame

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, VideoFrame | None]]:
        """Yield (rank, picture) as the decoder gives them, and (rank, None) for each error and each gap."""
        due = self.start
        for rank, packet in self._packets(container, stream):
            if packet is not None:
                packet.pts, packet.dts = rank, None
            elif self.index.by_output and self.index.cut:
                return  # what the decoder still holds may belong behind frames that are gone
            if rank != due:
                yield rank, None
            due = rank + 1
            try:
                frames = stream.codec_context.decode(packet)
            except (av.error.FFmpegError, ValueError) as error:
                self.reason = reason_of(error)
                yield rank, None
                continue
            for frame in frames:
                if frame.pts is not None and 0 <= frame.pts < len(self.index.numbers):
                    yield int(frame.pts), frame

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, Any]]:
        """Yield (rank, packet) from the starting key frame on, then (end, None) to flush the decoder."""
        ranks = self.index.ranks
        if ranks and self.start > 0:
            container.seek(int(self.index.stamps[self.start]), stream=stream, backward=True)
        counted = -1
        first = True
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                counted += 1
                rank = ranks.get(-1 if packet.pos is None else int(packet.pos), UNKNOWN) if ranks else counted
                if first and rank > self.start:  # the container can't seek there: from the beginning
                    container.seek(0, stream=stream, backward=True, any_frame=False)
                    first = False
                    continue
                first = False
                if rank >= self.start:
                    yield rank, packet
        except (av.error.FFmpegError, ValueError) as error:
            self.reason = reason_of(error)
        yield len(self.index.numbers), None
