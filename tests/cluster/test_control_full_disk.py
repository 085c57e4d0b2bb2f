"""A driver is watched and stopped while its disk takes no new file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import files
from cluster.control import ROOM, Controller, read_status, send
from cluster.errors import ClusterError
from tests.cluster.small_disk import fill, fill_inodes, mounted


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def obey_once(run: Controller) -> threading.Thread:
    """Answer the next command."""

    def drive() -> None:
        until(lambda: any(run.acknowledge(command, f"will {command.kind}") or True for command in run.commands()))

    thread = threading.Thread(target=drive)
    thread.start()
    return thread


@pytest.fixture
def refuses_new_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every new file fails for want of quota, as on a disk that is shared; which were tried."""
    tried: list[Path] = []

    def refuse(path: Path, text: str) -> None:
        tried.append(path)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(files, "create_private", refuse)
    return tried


def test_status_goes_on_without_new_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Controller(tmp_path / "run", interval=0.05) as run:
        until(lambda: (run.folder / "status.json").exists())
        tried = request.getfixturevalue("refuses_new_files")
        run.publish({"space": "waiting"})
        until(lambda: read_status(run.folder).status == {"space": "waiting"})
        first = json.loads((run.folder / "status.json").read_text())["heartbeat"]
        until(lambda: read_status(run.folder).alive and bool(tried))
        until(lambda: json.loads((run.folder / "status.json").read_text())["heartbeat"] > first)
        assert not run.trouble
    assert read_status(run.folder).state == "ended"


def test_commands_are_taken_without_new_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Controller(tmp_path / "run", interval=0.05) as run:
        request.getfixturevalue("refuses_new_files")
        for kind, argument in (("scale", "3"), ("stop", "")):  # one after the other: there is room for one
            thread = obey_once(run)
            assert send(run.folder, kind, argument) == f"will {kind}"  # type: ignore[arg-type]
            thread.join()
        assert run.commands() == []


def test_a_status_too_long_for_its_room_is_late(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Controller(tmp_path / "run", interval=0.05) as run:
        run.publish({"n": 1})
        until(lambda: read_status(run.folder).status == {"n": 1})
        request.getfixturevalue("refuses_new_files")
        run.publish({"text": "x" * ROOM})
        until(lambda: "quota" in run.trouble.lower())
        assert read_status(run.folder).status == {"n": 1}


def test_without_any_room_the_error_says_how_to_stop(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Controller(tmp_path / "run", interval=0.05) as run:
        request.getfixturevalue("refuses_new_files")
        (run.folder / "spare.command").unlink()
        with pytest.raises(ClusterError, match=f"kill -INT {os.getpid()}"):
            send(run.folder, "stop")


@pytest.mark.parametrize("exhaust", [fill, fill_inodes])
def test_on_a_real_full_disk(tmp_path: Path, exhaust: Callable[[Path], Path]) -> None:
    with mounted(tmp_path / "disk", kib=256, inodes=40) as disk, Controller(disk / "run", interval=0.05) as run:
        until(lambda: (run.folder / "status.json").exists())
        ballast = exhaust(disk)
        with pytest.raises(OSError, match="No space left"):
            (disk / "one-more").write_bytes(bytes(8192))
        run.publish({"space": "waiting"})
        until(lambda: read_status(run.folder).status == {"space": "waiting"})
        thread = obey_once(run)
        assert send(run.folder, "stop") == "will stop"
        thread.join()
        shutil.rmtree(ballast) if ballast.is_dir() else ballast.unlink()
        run.publish({"space": None})
        until(lambda: read_status(run.folder).status == {"space": None})
        assert not run.trouble
