"""Output that outlives its terminal: what can't be shown any more goes on in a file."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

GONE = frozenset({errno.EIO, errno.EPIPE, errno.ENXIO})  # a terminal that closed, a pipe that nobody reads


class Lasting:
    """A text stream whose file descriptor is turned to `log` once its reader is gone.

    The descriptor itself is turned, so that whatever else writes there, such as a library in C, or Python when it
    leaves, goes on too. A stream without a descriptor fails as before.

    Parameters
    ----------
    stream : text stream
        Such as standard error.
    log : Path
        Appended to, mode 0600. Where it can't be opened, output is dropped.
    """

    def __init__(self, stream: TextIO, log: Path) -> None:
        self._stream = stream
        self._log = log
        self._lock = threading.RLock()  # a signal's handler may write while the main thread does

    def write(self, text: str) -> int:
        """Write, and see that it arrives."""
        with self._lock:
            try:
                count = self._stream.write(text)
                self._stream.flush()
            except OSError as error:
                self._turn(error)
                if not isinstance(getattr(self._stream, "buffer", None), io.BufferedIOBase):
                    self._stream.write(text)  # with PYTHONUNBUFFERED nobody has kept it
                count = len(text)
        return count

    def flush(self) -> None:
        """Write out what is pending."""
        with self._lock:
            try:
                self._stream.flush()
            except OSError as error:
                self._turn(error)

    def _turn(self, error: OSError) -> None:
        if error.errno not in GONE:
            raise error
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            raise error from None
        try:
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        except OSError:
            log = os.open(os.devnull, os.O_WRONLY)
        os.dup2(log, descriptor)
        os.close(log)
        self._stream.flush()  # what failed is still in the stream's buffer, if it has one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def outliving_the_terminal(log: Path) -> Iterator[None]:
    """Within, standard output and error go on in `log` once the terminal, or the reader of the pipe, is gone."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Lasting(stream, log) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
