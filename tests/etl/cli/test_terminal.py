from __future__ import annotations

import errno
import fcntl
import io
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from etl.cli.terminal import LoggedStream
from tests.etl.conftest import Walk


@pytest.mark.parametrize("buffered", [True, False])
def test_what_cannot_be_written_goes_into_the_log(tmp_path: Path, buffered: bool) -> None:
    reads, writes = os.pipe()
    raw = os.fdopen(writes, "wb", buffering=-1 if buffered else 0)
    with io.TextIOWrapper(raw, write_through=not buffered) as stream:  # type: ignore[type-var]
        lasting = LoggedStream(stream, tmp_path / "log")
        lasting.write("seen\n")
        assert os.read(reads, 100) == b"seen\n"
        os.close(reads)
        lasting.write("unseen\n")
        print("later", file=lasting)  # a stream as far as print is concerned
        os.write(writes, b"from below\n")
        lasting.flush()
    assert (tmp_path / "log").read_text() == "unseen\nlater\nfrom below\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_without_a_folder_for_the_log_output_is_dropped(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as stream:
        LoggedStream(stream, tmp_path / "nowhere" / "log").write("unseen\n")


def test_other_faults_are_told(tmp_path: Path) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        LoggedStream(Full(), tmp_path / "log").write("x")


def run_in_a_terminal(command: list[str], until: bytes) -> subprocess.Popen[bytes]:
    """Start a command as its terminal's only one, and close the terminal once it shows `until`."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its closing is a SIGHUP too

    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_terminal
    )
    os.close(theirs)
    seen = b""
    while until not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    return process


@pytest.mark.slow
def test_a_closed_terminal_ends_no_run(shared_walk: Walk, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "etl.cli", "run", "h36m", "--root", str(shared_walk.raw), "-w", str(work)]
    command += ["--hz", "50", "--models", "etl.demo.truth:build", "--workers", "1"]
    command += ["--set", f"models.options.folder='{shared_walk.raw}'", "--set", "estimate.partition_frames=4"]
    process = run_in_a_terminal(command, b"estimate")
    assert process.wait(120) == 0
    with np.load(work / "training" / "h36m_xycd_train.npz") as training:
        assert len(training["xycd"]) == len(shared_walk.cameras) * shared_walk.frames
    said = (work / "run" / "driver.log").read_text()
    assert "merge" in said
    assert "h36m_xycd_train.npz" in said
