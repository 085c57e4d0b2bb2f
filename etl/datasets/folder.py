"""Any tree of images and videos, without ground truth.

Each video is a sequence, and so is each folder that holds images, in natural order of their names. Its subject is
the folder that it is in, relative to the root (``root`` for the root itself), its action its own name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import xarray as xr

from etl.datasets.base import DatasetReader, Sequence, build_annotation
from etl.datasets.checks import require_folder
from etl.errors import DatasetError, MediaError
from etl.media.frames import Media, frame_count, media_bytes, media_rate
from schemas.keys import SequenceKey

IMAGES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEOS: Final = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})
ROOT: Final = "root"  # subject of what lies in the root itself
LONGEST_NAME: Final = 255  # bytes, of all file systems that are in use


@dataclass(frozen=True)
class Folder(DatasetReader):
    """Reader of a tree of images and videos.

    Parameters
    ----------
    root : Path
        The tree. Hidden files and folders are left out; links to folders aren't followed.
    """

    name: ClassVar[str] = "folder"
    splits: ClassVar[tuple[str, ...]] = ("all",)

    def sequences(self) -> list[Sequence]:
        """One sequence a video, and one a folder with images; see `DatasetReader.sequences`."""
        root = require_folder(self.root, "images or videos")
        tree = _Tree(root)
        found = sorted(self._sequences(tree), key=lambda sequence: sequence.key)
        if not found:
            closed = f"; {len(tree.closed)} folders can't be read" if tree.closed else ""
            raise DatasetError(
                f"{root} must have images ({' '.join(sorted(IMAGES))}) or videos ({' '.join(sorted(VIDEOS))}).",
                f"no images or videos (hidden files don't count){closed}",
                "Check the path, or convert the files.",
            )
        for one, other in pairwise(found):
            if one.key == other.key:
                raise DatasetError(
                    f"A folder {ROOT!r} in {root} must not have the same sequences as the root itself.",
                    f"{one.media.path} and {other.media.path}",
                    "Rename one of them.",
                )
        return found

    def notes(self) -> list[str]:
        """What is in the folder and isn't read, as sentences."""
        tree = _Tree(self.root)
        unknown = [f"{here}{name}" for here, names in tree.files.items() for name in names if _kind(name) is None]
        notes = {"files are neither images nor videos by their names": unknown, "folders can't be read": tree.closed}
        return [f"{len(names)} {what}: {_listing(names)}." for what, names in notes.items() if names]

    def _sequences(self, tree: _Tree) -> Iterator[Sequence]:
        for here, names in tree.files.items():
            for name in names:
                if _kind(name) == "video":
                    yield self._sequence(here.rstrip("/"), name, Media("video", here + name))
            images = sorted((name for name in names if _kind(name) == "image"), key=natural)
            if images:
                # The root's own name isn't used: moving the tree must not change the sequence.
                parent, own = os.path.split(here.rstrip("/")) if here else ("", ROOT)
                yield self._sequence(parent, own, Media("list", here.rstrip("/") or ".", names=tuple(images)))

    def _sequence(self, parent: str, action: str, media: Media) -> Sequence:
        key = SequenceKey(self.name, parent or ROOT, action, 0, "0")
        _require_names(media)
        longest = max(len(os.fsencode(part)) for part in key.path.parts)
        if longest > LONGEST_NAME:
            raise DatasetError(
                f"A folder's path below the root, as one name in the workspace, must have at most "
                f"{LONGEST_NAME} bytes.",
                f"{longest} bytes for {media.path}",
                "Give a root further down, or shorten the names.",
            )
        return Sequence(key=key, split="all", release_name=media.path, media=media)

    def annotate(self, sequence: Sequence) -> xr.Dataset:
        """One row a frame, without ground truth; see `DatasetReader.annotate`.

        Raises
        ------
        DatasetError
            When a video can't be read at all, so that its frames can't be counted.
        """
        root = self.root
        try:
            frames = frame_count(root, sequence.media)
            rate = media_rate(root, sequence.media)
        except MediaError as error:
            raise DatasetError(error.rule, error.found, error.fix) from error
        name = sequence.media.path.replace("{", "{{").replace("}", "}}")
        return build_annotation(
            sequence,
            frame_number=np.arange(frames, dtype=np.int32),
            camera=None,
            media_bytes=media_bytes(root, sequence.media),
            rate_hz=rate,
            media_rate_hz=rate,
            imgname=f"{name}/{{frame:06d}}",
            joint_source="none",
            provenance={"notes": []},
        )


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by which ``img2`` comes before ``img10``; letter case counts last."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], name


class _Tree:
    """What a tree holds, hidden files and folders left out.

    Attributes
    ----------
    files : dict of str to list of str
        Names of files, in order, by their folder relative to the root: ``""``, ``"a/"``, ``"a/b/"``.
    closed : list of str
        Folders that can't be read.
    """

    def __init__(self, root: Path) -> None:
        self.files: dict[str, list[str]] = {}
        self.closed: list[str] = []

        def note(error: OSError) -> None:
            self.closed.append(Path(error.filename).relative_to(root).as_posix())

        for folder, folders, names in os.walk(root, onerror=note):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            here = "".join(f"{part}/" for part in Path(folder).relative_to(root).parts)
            self.files[here] = sorted(name for name in names if not name.startswith("."))


def _kind(name: str) -> str | None:
    suffix = Path(name).suffix.lower()
    return "image" if suffix in IMAGES else "video" if suffix in VIDEOS else None


def _require_names(media: Media) -> None:
    """Refuse names that aren't text, and so have no place in tables and in NetCDF."""
    for path in (media.path, *(f"{media.path}/{name}" for name in media.names)):
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise DatasetError(
                "Names of images, videos and their folders must be UTF-8.",
                _printable(path),
                "Rename them; `convmv -r -f latin1 -t utf8 --notest FOLDER` does so for a whole tree.",
            ) from error


def _listing(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(_printable, sorted(names)[:most])) + more


def _printable(name: str) -> str:
    """A name, with the hexadecimal of bytes that aren't UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")
