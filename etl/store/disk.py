"""Free space of a disk, and errors of a full or read-only one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from etl.errors import SpaceError, WorkspaceError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # no space, inodes or quota left


def disk_error(path: Path, error: OSError) -> WorkspaceError:
    """Error that explains a failed write: a `SpaceError` where the disk is full."""
    fixes = {
        errno.ENOSPC: "Free some space or choose another --workspace; the same command then goes on.",
        errno.EDQUOT: "Your quota is used up: free some space; the same command then goes on.",
        errno.EROFS: "The file system is read-only: choose another --workspace.",
        errno.EACCES: "You may not write there: choose another --workspace.",
        errno.EPERM: "You may not write there: choose another --workspace.",
    }
    fixes |= dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "Choose an output whose parent is a folder, and move others away."
    )
    fix = fixes.get(error.errno or 0, "Choose another --workspace.")
    kind = SpaceError if error.errno in FULL else WorkspaceError
    return kind("The workspace must be writable.", f"{path}: {error.strerror or error}{_inodes(path, error)}", fix)


@contextlib.contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of a full disk into a `SpaceError`; `path` is named where the error names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_error(Path(error.filename or path), error) from error


def _inodes(path: Path, error: OSError) -> str:
    """Note that inodes are used up; the error number is the same as for space."""
    if error.errno != errno.ENOSPC:
        return ""
    with contextlib.suppress(OSError):
        found = os.statvfs(nearest_existing(path))
        if found.f_files and not found.f_favail:
            return " (no inodes left: too many files)"
    return ""


def nearest_existing(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Free bytes on the file system of `path`."""
    return shutil.disk_usage(nearest_existing(path)).free
