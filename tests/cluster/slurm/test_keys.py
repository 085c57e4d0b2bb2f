"""Key files: private, removed when the run ends, and cleaned up after a killed run."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.driver_process import STALE_AFTER
from cluster.slurm.keys import KeyFolder, clean_up_dead_runs


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_key_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys = KeyFolder(tmp_path / "run", "xycd-1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o700
    assert modes(keys.path) == {"owner.json": 0o600, "key.pem": 0o600, "certificate.pem": 0o600}
    keys.remove()
    assert not keys.path.exists()
    keys.remove()  # twice is harmless


def test_keys_are_removed_when_making_them_fails(tmp_path: Path) -> None:
    (tmp_path / "slurm-a").mkdir()
    (tmp_path / "slurm-a" / "certificate.pem").touch()
    with pytest.raises(FileExistsError):
        KeyFolder(tmp_path, "a")
    assert not (tmp_path / "slurm-a").exists()


DIES = """
import os, sys, signal
from pathlib import Path
from cluster.slurm.keys import KeyFolder
KeyFolder(Path(sys.argv[1]), "dead")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_keys_of_a_killed_run_are_cleaned_at_the_next_start(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -9
    assert (tmp_path / "slurm-dead" / "key.pem").exists()
    living = KeyFolder(tmp_path, "living")
    cancelled: list[str] = []
    assert clean_up_dead_runs(tmp_path, cancelled.append) == ["dead"]
    assert cancelled == ["dead"]
    assert not (tmp_path / "slurm-dead").exists()
    assert (living.path / "key.pem").exists()


def test_keys_of_another_host_are_judged_by_their_heartbeat(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path, "far")
    note = keys.path / "owner.json"
    note.write_text(note.read_text().replace(socket.gethostname(), "another-host"))
    assert clean_up_dead_runs(tmp_path, lambda name: None) == []
    os.utime(note, (0, time.time() - STALE_AFTER - 60))
    keys.touch()
    assert clean_up_dead_runs(tmp_path, lambda name: None) == []
    os.utime(note, (0, time.time() - STALE_AFTER - 60))
    assert clean_up_dead_runs(tmp_path, lambda name: None) == ["far"]


def test_half_made_folders(tmp_path: Path) -> None:
    folder = tmp_path / "slurm-x"
    folder.mkdir(mode=0o700)
    assert clean_up_dead_runs(tmp_path, lambda name: None) == []
    os.utime(folder, (0, time.time() - 120))
    assert clean_up_dead_runs(tmp_path, lambda name: None) == ["x"]
    assert clean_up_dead_runs(tmp_path / "absent", lambda name: None) == []


def test_half_a_note(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path, "cut")
    note = keys.path / "owner.json"
    note.write_text(note.read_text()[:20])
    assert clean_up_dead_runs(tmp_path, lambda name: None) == []
    os.utime(note, (0, time.time() - 120))
    assert clean_up_dead_runs(tmp_path, lambda name: None) == ["cut"]
    assert not keys.path.exists()
