"""Private files on shared disk: only their owner can read or write them, and they are replaced atomically."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from cluster.errors import ClusterError

LIMIT = 4 * 1024 * 1024  # bytes; the files here are far smaller


def private_folder(path: Path) -> Path:
    """Make the folder `path` and its parents, with mode 0700, and return its absolute path.

    Raises
    ------
    ClusterError
        When it belongs to another user, is a link, or the file system doesn't keep modes.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise ClusterError(
            "The run's folder must be private to you.",
            f"{path} is {stat.filemode(found.st_mode)} with owner {found.st_uid}, you are {os.getuid()}",
            "Choose a workspace of your own, on a file system that keeps permissions.",
        )
    return path


def write_private(path: Path, text: str) -> None:
    """Write `text` under a temporary name with mode 0600 and rename it: readers see all of it or the old file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        create_private(temporary, text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_private(path: Path, text: str) -> None:
    """Write a new file with mode 0600; FileExistsError when the path exists, even as a dangling link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def read_private(path: Path) -> str | None:
    """Text of a file of this user; None when it is missing, is a link, or belongs to another user."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_size > LIMIT:
            return None
        return file.read().decode("utf-8", "replace")


def refresh_listing(folder: Path) -> None:
    """Make the next listing of `folder` come from the server.

    NFS clients cache a folder's listing, and the absence of a name, for up to a minute. A change of their own
    invalidates the cache.
    """
    with suppress(OSError):  # then the listing is merely late
        os.utime(folder)
