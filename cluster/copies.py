"""Copies of files on the disk of the node that reads them: made once, used by all processes, removed at the end.

::

    <folder>/xycd-<user>/           entered by its owner only
      users                         each process that uses the copies holds a shared lock on it
      room                          locked while room is made and a copy begun
      <key>.lock                    shared by those who read the copy, exclusive to who makes or removes it
      <key>.part                    being copied
      <key>.mp4                     the copy; <key> hashes path, size and time of the original

All locks are the operating system's (flock), so the dead hold none: a copy that nobody finished is begun again, one
that nobody uses may go. In a batch job the workers' nanny is a user too (see `dask_setup`): it outlives its worker,
however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from functools import cache
from multiprocessing import util
from pathlib import Path
from typing import Any, Final

from cluster.config import StagingConfig, memory_bytes
from cluster.errors import ClusterError
from cluster.files import private_folder

VARIABLE: Final = "XYCD_STAGING"  # in a job's environment: folder of the copies, as configured
CHUNK: Final = 8 << 20  # bytes


class StagingError(Exception):
    """A file can't be copied to this node; it is read where it lies."""


def dask_setup(nanny: Any) -> None:
    """Called in the nanny of a job's worker: make it a user of the copies, so that they go when the job ends."""
    with contextlib.suppress(StagingError, ClusterError, OSError):  # workers find out too, and say so
        CopyStore.of(StagingConfig(folder=os.environ.get(VARIABLE)))


class CopyStore:
    """The copies on this node, of this user. Made by `of`, once a process.

    Parameters
    ----------
    folder : Path
        Of the copies; made, and emptied where no living process uses it.
    limit : int
        Bytes of all copies.
    keep_free : int
        Bytes left on the disk.
    """

    def __init__(self, folder: Path, limit: int, keep_free: int) -> None:
        self.folder, self.limit, self.keep_free = folder, limit, keep_free
        self._users = self._join()
        self._owner = os.getpid()

    def _join(self) -> int:
        while True:
            private_folder(self.folder)
            # The last user may have removed the folder just now.
            with contextlib.suppress(FileNotFoundError), self._locked(self.folder / "room"):
                users = self._open(self.folder / "users")
                if _lock(users, fcntl.LOCK_EX, wait=False):
                    self._clear()  # left by the dead
                _lock(users, fcntl.LOCK_SH)
                return users

    @classmethod
    def of(cls, settings: StagingConfig) -> CopyStore:
        """That of the settings; it is given up when the process ends.

        Raises
        ------
        StagingError
            When the folder names a variable that isn't set on this node.
        ClusterError, OSError
            When it can't be made.
        """
        named = os.path.expandvars(settings.folder or "")
        if "$" in named or not named:
            raise StagingError(f"{settings.folder}: the variable isn't set on {os.uname().nodename}")
        folder = Path(named).absolute() / f"xycd-{os.getuid()}"
        return _opened(folder, memory_bytes(settings.limit), memory_bytes(settings.keep_free), os.getpid())

    @contextlib.contextmanager
    def copy(self, original: Path) -> Iterator[Path]:
        """A copy of a file, which stays while the context is open.

        Raises
        ------
        StagingError
            When there is no room for it, or the original changes meanwhile.
        OSError
            When it can't be read or written.
        """
        stat = original.stat()
        identity = f"{original.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}"
        key = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
        path = self.folder / f"{key}{original.suffix}"
        while True:
            with self._locked(self.folder / f"{key}.lock", fcntl.LOCK_SH) as descriptor:
                if size_of(path) == stat.st_size:
                    os.utime(descriptor)  # used now
                    yield path
                    return
            # Nobody changes from shared to exclusive: two that did would wait for each other.
            with self._locked(self.folder / f"{key}.lock"):
                if size_of(path) != stat.st_size:
                    self._fetch(original, path, stat)

    def close(self) -> None:
        """Leave; the last living user removes all copies."""
        if self._owner != os.getpid():  # closed before, or forked: then the lock is the parent's
            return
        self._owner = 0
        with contextlib.suppress(OSError), self._locked(self.folder / "room"):
            # Let go first: a lock isn't changed in one step, and two that leave at once would each see the other.
            _lock(self._users, fcntl.LOCK_UN)
            if _lock(self._users, fcntl.LOCK_EX, wait=False):
                self._clear()
                shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._users)

    def _fetch(self, original: Path, path: Path, stat: os.stat_result) -> None:
        """Copy; called by who holds the copy's lock."""
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)  # of a dead process
        try:
            with original.open("rb") as source:
                with self._locked(self.folder / "room"):
                    self._make_room(stat.st_size)
                    with part.open("wb") as target:
                        target.truncate(stat.st_size)  # so that others count it from now on
                copied = _copy(source.fileno(), part)
            after = original.stat()
            if (copied, after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_size, stat.st_mtime_ns):
                raise StagingError(f"{original} changed while it was copied: {copied} bytes, not {stat.st_size}")
            os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Remove copies, those not used for longest first, until `size` more bytes fit; called under `room`.

        Raises
        ------
        StagingError
            When they can't.
        """
        if size > self.limit:
            raise StagingError(f"{self.folder}: {size:,} bytes are more than its limit of {self.limit:,}")
        used, begun = self._used()
        locks = sorted(self.folder.glob("*.lock"), key=lambda lock: lock.stat().st_mtime_ns)
        while self._lacks(size, used, begun):
            if not locks:
                free = shutil.disk_usage(self.folder).free
                raise StagingError(
                    f"{self.folder}: no room for {size:,} bytes beside {used:,} of copies in use "
                    f"(limit {self.limit:,}, keep_free {self.keep_free:,}, free {free:,})"
                )
            lock = locks.pop(0)
            descriptor = self._open(lock)
            try:
                if _lock(descriptor, fcntl.LOCK_EX, wait=False):  # else it is in use, or being copied
                    for file in self.folder.glob(f"{lock.stem}*"):
                        file.unlink(missing_ok=True)
                    used, begun = self._used()
            finally:
                os.close(descriptor)

    def _lacks(self, size: int, used: int, begun: int) -> bool:
        free = shutil.disk_usage(self.folder).free - begun
        return used + size > self.limit or free - size < self.keep_free

    def _used(self) -> tuple[int, int]:
        """Bytes of all copies, and those of them that are still to be written."""
        used = begun = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    used += stat.st_size
                    if entry.name.endswith(".part"):
                        begun += max(0, stat.st_size - 512 * stat.st_blocks)
        return used, begun

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in ("users", "room"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, path: Path, how: int = fcntl.LOCK_EX) -> Iterator[int]:
        while True:
            descriptor = self._open(path)
            try:
                _lock(descriptor, how)
                if _is_at(descriptor, path):  # else it was removed while we waited for it
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@cache
def _opened(folder: Path, limit: int, keep_free: int, process: int) -> CopyStore:
    store = CopyStore(folder, limit, keep_free)
    # Workers are processes of multiprocessing, which runs this and not atexit's.
    util.Finalize(store, store.close, exitpriority=10)
    return store


def _copy(source: int, target: Path) -> int:
    """Copy an open file; how many bytes it had."""
    copied = 0
    with target.open("rb+", buffering=0) as file:
        while chunk := os.read(source, CHUNK):
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
            copied += len(chunk)
    return copied


def size_of(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _lock(descriptor: int, how: int, *, wait: bool = True) -> bool:
    """Take a lock; false where another has it and we don't wait."""
    try:
        fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
