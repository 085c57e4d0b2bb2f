"""Output that continues in a log file once its terminal is closed."""

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


class LoggedStream:
    """Text stream whose file descriptor is redirected to a log file once its reader is gone.

    The descriptor itself is redirected. So other writers to it continue too, such as a C library, or Python at exit.
    A stream without a descriptor fails as before.

    Parameters
    ----------
    stream : text stream
        For example standard error.
    log : Path
        File to append to, mode 0600. Output is dropped where it can't be opened.
    """

    def __init__(self, stream: TextIO, log: Path) -> None:
        self._stream = stream
        self._log = log
        self._lock = threading.RLock()  # a signal handler may write while the main thread does

    def write(self, text: str) -> int:
        """Write and flush."""
        with self._lock:
            try:
                count = self._stream.write(text)
                self._stream.flush()
            except OSError as error:
                self._redirect(error)
                if not isinstance(getattr(self._stream, "buffer", None), io.BufferedIOBase):
                    self._stream.write(text)  # unbuffered (PYTHONUNBUFFERED): the text is lost
                count = len(text)
        return count

    def flush(self) -> None:
        """Flush the stream."""
        with self._lock:
            try:
                self._stream.flush()
            except OSError as error:
                self._redirect(error)

    def _redirect(self, error: OSError) -> None:
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
        self._stream.flush()  # the text that failed is still in the buffer, if there is one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def continue_in_log(log: Path) -> Iterator[None]:
    """Continue standard output and error in `log` once the terminal, or the reader of the pipe, is gone."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (LoggedStream(stream, log) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
