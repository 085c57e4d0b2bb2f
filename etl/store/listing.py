"""Listings of a store's folders, repeated if a shared disk may show new files late.

An NFS client caches a folder's listing, and that a file is missing, for up to a minute. So a file that a worker on
another node has just written may seem to be missing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from cluster.files import refresh_listing

LATE: Final = 120.0  # seconds for which a new file may not be visible yet
PAUSES: Final = (0.1, 0.4, 1.0, 2.0, 4.0)  # seconds between listings


class Listing:
    """Names and sizes of the files in some folders.

    Parameters
    ----------
    root : Path
        Folder that all paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, dict[str, int]] = {}

    def look(self, folders: Iterable[PurePosixPath]) -> None:
        """List folders that aren't listed yet."""
        for folder in folders:
            if folder.as_posix() not in self._folders:
                self._folders[folder.as_posix()] = _listed(self.root / folder)

    def look_again(self, folders: Iterable[PurePosixPath]) -> None:
        """List folders again, past the NFS client's cache."""
        for folder in set(folders):
            refresh_listing(self.root / folder)
            self._folders[folder.as_posix()] = _listed(self.root / folder)

    def size(self, path: PurePosixPath) -> int | None:
        """Size of a file in a listed folder, bytes; None if there is no such file."""
        return self._folders.get(path.parent.as_posix(), {}).get(path.name)

    def names(self) -> Iterable[PurePosixPath]:
        """Paths of all files listed."""
        return (PurePosixPath(folder, name) for folder, names in self._folders.items() for name in names)

    def wait_for(
        self,
        expected: Mapping[PurePosixPath, int],
        *,
        pauses: Iterable[float] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """List folders again, for some seconds (PAUSES), until the files have the expected sizes."""
        for pause in PAUSES if pauses is None else pauses:
            late = [path for path, size in expected.items() if self.size(path) != size]
            if not late:
                return
            sleep(pause)
            self.look_again(path.parent for path in late)


def _listed(folder: Path) -> dict[str, int]:
    found = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed since
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size
    return found


def wait_until_visible(path: Path, *, sleep: Callable[[float], object] = time.sleep) -> Path:
    """Wait up to some seconds (PAUSES) for `path` to exist; return it."""
    for pause in PAUSES:
        if path.exists():
            break
        sleep(pause)
        refresh_listing(path.parent)
    return path


def may_be_late(written: float, now: float | None = None) -> bool:
    """Whether a file written at this epoch second, by its writer's clock, may not be visible yet."""
    return abs((time.time() if now is None else now) - written) < LATE
