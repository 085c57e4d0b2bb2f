"""Videos on the disk of the node that decodes them.

Whatever goes wrong with the copy, the video is read where it lies, and the driver is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.config import StagingConfig
from cluster.copies import CopyStore, StagingError, size_of
from cluster.errors import ClusterError
from etl.media.frames import DecodedFrame, Media, decode
from etl.store.events import tell


@dataclass
class Source:
    """Where the frames of a sequence are read from.

    Parameters
    ----------
    root : Path
        The dataset's root.
    media : Media
        What holds the frames.
    copy : Path, optional
        Of the video, on this node.
    size : int
        Its bytes.
    trouble : str
        Why the copy, once there, was no use.
    """

    root: Path
    media: Media
    copy: Path | None = None
    size: int = 0
    trouble: str = ""

    def decode(self, numbers: Sequence[int], *, threads: int, max_pixels: int) -> Generator[DecodedFrame, None, None]:
        """Decode frames, as `etl.media.frames.decode` does of the original, its messages included."""
        numbers = list(numbers)
        if self.copy is None:
            yield from decode(self.root, self.media, numbers, threads=threads, max_pixels=max_pixels)
            return
        here, original = str(self.copy), str(self.root / self.media.path)
        near = replace(self.media, path=self.copy.name)
        frames = decode(self.copy.parent, near, numbers, threads=threads, max_pixels=max_pixels)
        for done, frame in enumerate(frames):
            if frame.error is None:
                yield frame
            elif size_of(self.copy) == self.size:
                yield replace(frame, error=frame.error.replace(here, original))
            else:  # somebody has cleaned the node's disk
                self.trouble = f"{self.copy}: removed while it was in use"
                yield from decode(self.root, self.media, numbers[done:], threads=threads, max_pixels=max_pixels)
                return


@contextlib.contextmanager
def staged(root: Path, media: Media, settings: StagingConfig) -> Iterator[Source]:
    """The frames of a sequence, from a copy on this node where that is wanted and possible.

    Parameters
    ----------
    root : Path
        The dataset's root.
    media : Media
        What holds the frames. Only videos are copied: of a folder of images a partition reads its own files, once.
    settings : StagingConfig
        Where to, and how much.
    """
    if settings.folder is None or media.kind != "video":
        yield Source(root, media)
        return
    with contextlib.ExitStack() as stack:
        try:
            store = CopyStore.of(settings)
            copy = stack.enter_context(store.copy(root / media.path))
            source = Source(root, media, copy, copy.stat().st_size)
        except (StagingError, ClusterError, OSError) as error:
            source = Source(root, media, trouble=str(error))
        try:
            yield source
        finally:
            if source.trouble:
                tell("unstaged", path=media.path, reason=source.trouble)
