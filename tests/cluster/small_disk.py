"""A real file system that is soon full: a tmpfs of so many bytes and inodes. Only root can mount one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, kib: int, inodes: int = 10_000) -> Iterator[Path]:
    """An empty file system at `folder`; the test skips where none can be mounted."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    options = f"size={kib}k,nr_inodes={inodes},mode=700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all bytes that are left; the file to delete to give them back."""
    path = folder / ".ballast"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def fill_inodes(folder: Path) -> Path:
    """Take all inodes that are left; the folder to delete to give them back."""
    path = folder / ".crowd"
    path.mkdir()
    with contextlib.suppress(OSError):
        for i in range(1_000_000):
            (path / str(i)).touch()
    return path
