"""Files of named arrays whose sizes are known beforehand: laid out once, then filled in place by several processes.

`NpzWriter` makes an npz, `ArrayFolder` a folder of npy files that can be memory-mapped. Memory holds only the rows that
are being written, whatever the size of the result. The result appears under its name when it is complete.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.typing import DTypeLike

from etl.errors import SpaceError, WorkspaceError
from etl.stages.files.crc32 import combine_crc32
from etl.stages.files.row_writer import Array, Block, Member, RowWriter, disk_errors

Shapes = Mapping[str, tuple[tuple[int, ...], DTypeLike]]

ALIGNMENT: Final = 64  # bytes, as in npy files; lets readers map the arrays of an npz
_PADDING_ID: Final = 0xD935  # Android's zipalign uses this extra field for the same purpose
_FLUSH: Final = 32 * 2**20  # bytes of written rows after which they are forced to the disk


class ArrayWriter(ABC):
    """Lays out arrays, takes their rows in any order, and commits the result when all rows are written.

    A context manager. Leaving it normally checks that every row was written exactly once, and commits the result.
    Leaving it by an error removes what was written. An existing result is replaced only by a commit.

    Parameters
    ----------
    path : Path
        The result.
    shapes : mapping of str to (shape, dtype)
        The arrays, in the order in which they are stored.

    Raises
    ------
    etl.errors.WorkspaceError
        When there is too little space for them, or the folder can't be written.
    """

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self.path = path
        # Fixed names: a workspace has one writer at a time, and the next one finds what a killed one left.
        self._temporary, self._old = (path.with_name(f".{path.name}{suffix}") for suffix in (".partial", ".old"))
        self._blocks: dict[str, list[Block]] = {}
        self._flusher = ThreadPoolExecutor(1, "flush")
        self._flushing: Future[None] | None = None
        self._unflushed = 0
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
        self.members: dict[str, Member] = {}
        try:
            for key, (shape, dtype) in shapes.items():
                self._lay_out(key, shape, np.dtype(dtype))
            needed = sum(m.rows * m.row_bytes for m in self.members.values())
            free = shutil.disk_usage(path.parent).free
            if needed > free:
                raise SpaceError(
                    f"{path.name} needs {needed / 1e9:.2f} GB.",
                    f"{free / 1e9:.2f} GB free in {path.parent}",
                    "Free some space or choose another --workspace; the same command then goes on.",
                )
            with disk_errors(path):
                self._reserve()
        except BaseException:
            self._remove(self._temporary)
            raise
        self._rows = RowWriter(self.members)

    @abstractmethod
    def _lay_out(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Assign a place to one array; nothing is written yet."""

    @abstractmethod
    def _reserve(self) -> None:
        """Create the files in their full size."""

    @abstractmethod
    def _finish(self, checksums: Mapping[str, int]) -> None:
        """Write what is known only after all rows (headers with checksums), and force the files to the disk."""

    def write(self, key: str, start: int, values: Array) -> None:
        """Write rows in this process; see `RowWriter.write`."""
        self.record([self._rows.write(key, start, values)])

    def record(self, blocks: Iterable[Block]) -> None:
        """Take the receipts of rows that other processes wrote by `members`."""
        for block in blocks:
            if block.count:
                self._blocks.setdefault(block.key, []).append(block)
                self._unflushed += block.count * self.members[block.key].row_bytes
        if self._unflushed >= _FLUSH and (self._flushing is None or self._flushing.done()):
            if self._flushing is not None:
                self._flushing.result()
            self._unflushed = 0
            self._flushing = self._flusher.submit(self._flush)

    def _flush(self) -> None:
        """Force written rows to the disk while others are read; else the disk would be idle until the commit."""
        with disk_errors(self.path):
            for file in {member.file for member in self.members.values()}:
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())

    def append(self, key: str, values: Array) -> None:
        """Add a whole array after those that were laid out."""
        values = np.asarray(values)
        with disk_errors(self.path):
            self._lay_out(key, values.shape, values.dtype)
            self._reserve()
        self._rows.close()
        self._rows = RowWriter(self.members)
        self.write(key, 0, values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._rows.close()
            self._flusher.shutdown()
            if error is None:
                if self._flushing is not None:
                    self._flushing.result()  # the system reports a failed write only once
                checksums = {key: self._checksum(key) for key in self.members}
                with disk_errors(self.path):
                    self._finish(checksums)
                    self._replace()
        finally:
            self._remove(self._temporary)

    def _checksum(self, key: str) -> int:
        """CRC-32 of an array's bytes, combined from its blocks."""
        member = self.members[key]
        row, crc = 0, 0
        for block in sorted(self._blocks.get(key, []), key=lambda b: b.start):
            if block.start != row:
                break
            crc = combine_crc32(crc, block.crc, block.count * member.row_bytes)
            row += block.count
        if row != member.rows:
            raise ValueError(f"row {row} of {member.rows} of {key!r} wasn't written exactly once")
        return crc

    def _clear_leftovers(self) -> None:
        """Remove what a killed process left; restore an old result that has no replacement yet."""
        self._remove(self._temporary)
        if self._old.exists() and not self.path.exists():
            self._old.rename(self.path)
        self._remove(self._old)

    def _replace(self) -> None:
        self._temporary.replace(self.path)
        sync_folder(self.path.parent)

    def _remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class ArrayFolder(ArrayWriter):
    """A folder with one npy file an array: ``numpy.load(folder / "S.npy", mmap_mode="r")``."""

    def _lay_out(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        header = npy_header(shape, dtype)
        self.members[key] = Member(self._temporary / f"{key}.npy", len(header), shape, dtype)

    def _reserve(self) -> None:
        self._temporary.mkdir(exist_ok=True)
        for member in self.members.values():
            if not member.file.exists():
                with member.file.open("wb") as file:
                    file.write(npy_header(member.shape, member.dtype))
                    file.truncate(member.offset + member.rows * member.row_bytes)

    def _finish(self, checksums: Mapping[str, int]) -> None:
        for member in self.members.values():
            with member.file.open("rb+") as file:
                os.fsync(file.fileno())
        sync_folder(self._temporary)

    def _replace(self) -> None:
        # A folder can't be renamed onto a non-empty one, so the old result is renamed first. If the process is killed
        # in between, the next writer restores it.
        if self.path.exists():
            if not self.path.is_dir() or any(p.suffix != ".npy" for p in self.path.iterdir()):
                raise WorkspaceError(
                    "The output is a folder of npy files that may be replaced.",
                    f"{self.path} with other content",
                    "Move it away, or choose another output.",
                )
            self.path.rename(self._old)
        super()._replace()
        self._remove(self._old)


class NpzWriter(ArrayWriter):
    """An npz as numpy.savez writes it (stored, zip64), with arrays that start at multiples of 64 bytes."""

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self._end = 0
        self._headers: dict[str, tuple[ZipInfo, bytes]] = {}  # zip and npy header of each member
        super().__init__(path, shapes)

    def _lay_out(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        header = npy_header(shape, dtype)
        entry = ZipInfo(f"{key}.npy")  # dated 1980-01-01: equal arrays make equal files
        entry.external_attr, entry.CRC = 0o600 << 16, 0
        entry.header_offset = self._end
        # zip64 always, so that the length of the header doesn't depend on the sizes, which are filled in at the end.
        padding = -(self._end + len(entry.FileHeader(zip64=True)) + 4) % ALIGNMENT
        entry.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
        start = self._end + len(entry.FileHeader(zip64=True)) + len(header)
        self.members[key] = member = Member(self._temporary, start, shape, dtype)
        self._headers[key] = (entry, header)
        self._end = start + member.rows * member.row_bytes

    def _reserve(self) -> None:
        with self._temporary.open("rb+" if self._temporary.exists() else "wb") as file:
            file.truncate(self._end)

    def _finish(self, checksums: Mapping[str, int]) -> None:
        with self._temporary.open("rb+") as file:
            for key, (entry, header) in self._headers.items():
                data_size = self.members[key].rows * self.members[key].row_bytes
                entry.CRC = combine_crc32(zlib.crc32(header), checksums[key], data_size)
                entry.file_size = entry.compress_size = len(header) + data_size
                file.seek(entry.header_offset)
                file.write(entry.FileHeader(zip64=True) + header)
            file.seek(self._end)
            with ZipFile(file, "w") as archive:  # writes the central directory from there on
                archive.filelist.extend(entry for entry, _ in self._headers.values())
            file.flush()
            os.fsync(file.fileno())


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Header of an array in the npy format.

    Raises
    ------
    ValueError
        For dtypes with objects, which would need pickle.
    """
    if dtype.hasobject:
        raise ValueError(f"{dtype} holds Python objects")
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
