"""Write rows of arrays to known places in a file, from one process or several, optionally in background threads."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from etl.errors import MergeError
from etl.store.disk import disk_error

Array = NDArray[Any]

_BEHIND: Final = 16  # writes that may wait; a part of a feature file has about as many arrays
_THREADS: Final = 2  # one computes checksums while the other copies into the page cache
_PIECE: Final = 2**20  # bytes copied at once: they stay in the processor's cache between checksum and write


@dataclass(frozen=True)
class Member:
    """Place of one array. Picklable, so that other processes can write its rows."""

    file: Path  # the temporary file that holds it
    offset: int  # of its first byte in the file
    shape: tuple[int, ...]  # rows are along the first axis
    dtype: np.dtype[Any]  # without objects

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; of the whole array if it has no axes."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for an array without axes."""
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True)
class Block:
    """Receipt for `count` rows written from `start` on, with the CRC-32 of their bytes."""

    key: str
    start: int
    count: int
    crc: int


class RowWriter:
    """Writes rows of arrays that have been laid out; each process has its own.

    `write_behind` and `copy_behind` work in background threads: checksums and writes take as long as reading the next
    rows, and neither holds the GIL.

    Parameters
    ----------
    members : mapping of str to Member
        Places of the arrays.
    """

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = dict(members)
        self._files: dict[Path, int] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[Block]] = deque()
        self._done: list[Block] = []

    def write_behind(self, key: str, start: int, values: Array) -> None:
        """Call `write` in a background thread; `values` mustn't change meanwhile.

        Errors are raised by later calls, at the latest by `blocks`. At most `_BEHIND` writes wait.
        """
        self._behind(self.write, key, start, values)

    def copy_behind(self, key: str, start: int, count: int, source: Path, offset: int) -> None:
        """Call `copy` in a background thread; see `write_behind`."""
        self._behind(self.copy, key, start, count, source, offset)

    def _behind(self, work: Callable[..., Block], key: str, *what: Any) -> None:
        self._opened(self._members[key].file)  # opened here, because two threads would open it twice
        self._threads = self._threads or ThreadPoolExecutor(_THREADS, "write-behind")
        self._waiting.append(self._threads.submit(work, key, *what))
        while len(self._waiting) > _BEHIND:
            self._done.append(self._waiting.popleft().result())

    def blocks(self) -> list[Block]:
        """Wait for the background threads; receipts for all rows that they wrote."""
        while self._waiting:
            self._done.append(self._waiting.popleft().result())
        return self._done

    def write(self, key: str, start: int, values: Array) -> Block:
        """Write `values` (M, ...) as rows `start` to `start` + M of the array `key`.

        Raises
        ------
        ValueError
            When the rows don't fit the array's shape, or their dtype would lose values.
        etl.errors.WorkspaceError
            When the disk doesn't take them.
        """
        member = self._members[key]
        rows = np.ascontiguousarray(values).reshape(np.shape(values) if member.shape else (1,))
        if rows.shape[1:] != member.shape[1:] or start < 0 or start + len(rows) > member.rows:
            raise ValueError(f"rows {start} on of shape {rows.shape} don't fit {key!r} of shape {member.shape}")
        if not np.can_cast(rows.dtype, member.dtype, "same_kind") or _truncates(rows.dtype, member.dtype):
            raise ValueError(f"{rows.dtype} doesn't fit {key!r} of dtype {member.dtype}")
        data = rows.astype(member.dtype, copy=False).reshape(-1).view(np.uint8).data if rows.size else b""
        with disk_errors(member.file):
            _write_all(self._opened(member.file), data, member.offset + start * member.row_bytes)
        return Block(key, start, len(rows), zlib.crc32(data))

    def copy(self, key: str, start: int, count: int, source: Path, offset: int) -> Block:
        """Copy the bytes of `count` rows from the file `source`, at `offset`.

        Raises
        ------
        ValueError
            When the rows don't fit the array's shape.
        etl.errors.MergeError
            When `source` can't be read, or is too short.
        etl.errors.WorkspaceError
            When the disk doesn't take them.
        """
        member = self._members[key]
        if start < 0 or start + count > member.rows:
            raise ValueError(f"rows {start} to {start + count} don't fit {key!r} of shape {member.shape}")
        buffer = np.empty(min(_PIECE, count * member.row_bytes), np.uint8).data
        crc, target, end = 0, member.offset + start * member.row_bytes, offset + count * member.row_bytes
        with _read_errors(source), source.open("rb", buffering=0) as file:
            while offset < end:
                piece = buffer[: os.preadv(file.fileno(), [buffer[: end - offset]], offset)]
                if not piece:
                    raise OSError(f"it ends at byte {offset}, before {end}")
                crc = zlib.crc32(piece, crc)
                with disk_errors(member.file):
                    _write_all(self._opened(member.file), piece, target)
                offset, target = offset + len(piece), target + len(piece)
        return Block(key, start, count, crc)

    def _opened(self, path: Path) -> int:
        with disk_errors(path):
            if path not in self._files:
                self._files[path] = os.open(path, os.O_WRONLY)
        return self._files[path]

    def close(self) -> None:
        """Close the files; waiting background writes are cancelled."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of a write into an error that explains it."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    # The file is named here: the caller that gets a thread's error may have another file open by then.
    try:
        yield
    except OSError as error:
        fix = "Run `xycd estimate` again; add --verify if the file is damaged."
        raise MergeError("Merged files must be readable.", f"{path}: {error}", fix) from error


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)  # at most 2 GiB at once
        view, offset = view[written:], offset + written


def _truncates(values: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether text would be truncated."""
    return values.kind in "US" and values.itemsize > target.itemsize
