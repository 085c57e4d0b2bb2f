"""Keys: who holds them gets in, nobody else does; and they go when the run goes."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from distributed import Client, LocalCluster

import cluster
from cluster.config import ClusterConfig
from cluster.owner import STALE_AFTER
from cluster.security import DAYS, RunFolder, certificate, clean_stale
from tests.cluster import tasks


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_run_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys = RunFolder(tmp_path / "run", "xycd-1")
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
        RunFolder(tmp_path, "a")
    assert not (tmp_path / "slurm-a").exists()


def test_certificate_bears_clocks_that_differ() -> None:
    found = x509.load_pem_x509_certificate(certificate().certificate.encode())
    now = time.time()
    assert found.not_valid_before_utc.timestamp() < now - 86000
    assert now + (DAYS - 1) * 86400 < found.not_valid_after_utc.timestamp() < now + (DAYS + 1) * 86400


DIES = """
import os, sys, signal
from pathlib import Path
from cluster.security import RunFolder
RunFolder(Path(sys.argv[1]), "dead")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_keys_of_a_killed_run_are_cleaned_at_the_next_start(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    assert (tmp_path / "slurm-dead" / "key.pem").exists()
    living = RunFolder(tmp_path, "living")
    cancelled: list[str] = []
    assert clean_stale(tmp_path, cancelled.append) == ["dead"]
    assert cancelled == ["dead"]
    assert not (tmp_path / "slurm-dead").exists()
    assert (living.path / "key.pem").exists()


def test_keys_of_another_host_are_judged_by_their_heartbeat(tmp_path: Path) -> None:
    keys = RunFolder(tmp_path, "far")
    note = keys.path / "owner.json"
    note.write_text(note.read_text().replace(socket.gethostname(), "another-host"))
    assert clean_stale(tmp_path, lambda name: None) == []
    os.utime(note, (0, time.time() - STALE_AFTER - 60))
    keys.touch()
    assert clean_stale(tmp_path, lambda name: None) == []
    os.utime(note, (0, time.time() - STALE_AFTER - 60))
    assert clean_stale(tmp_path, lambda name: None) == ["far"]


def test_half_made_folders(tmp_path: Path) -> None:
    folder = tmp_path / "slurm-x"
    folder.mkdir(mode=0o700)
    assert clean_stale(tmp_path, lambda name: None) == []
    os.utime(folder, (0, time.time() - 120))
    assert clean_stale(tmp_path, lambda name: None) == ["x"]
    assert clean_stale(tmp_path / "absent", lambda name: None) == []


def test_half_a_note(tmp_path: Path) -> None:
    keys = RunFolder(tmp_path, "cut")
    note = keys.path / "owner.json"
    note.write_text(note.read_text()[:20])
    assert clean_stale(tmp_path, lambda name: None) == []
    os.utime(note, (0, time.time() - 120))
    assert clean_stale(tmp_path, lambda name: None) == ["cut"]
    assert not keys.path.exists()


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalCluster]:
    with cluster.start(ClusterConfig(workers=1)) as started:
        yield started


def test_owner_gets_in(workers: LocalCluster) -> None:
    with Client(workers, timeout="60s") as client:
        assert client.submit(tasks.double, 21).result(timeout=60) == 42


def test_plaintext_stranger_is_refused(workers: LocalCluster) -> None:
    address = workers.scheduler_address.replace("tls://", "tcp://")
    with pytest.raises(OSError, match="reset by peer"):
        Client(address, timeout="3s")


def test_stranger_with_another_key_is_refused(workers: LocalCluster) -> None:
    with pytest.raises(OSError, match="certificate does not match"):
        Client(workers.scheduler_address, security=certificate().in_memory(), timeout="3s")


def test_stranger_without_a_certificate_gets_no_answer(workers: LocalCluster) -> None:
    """Encryption alone is no entry: the scheduler wants to see this run's certificate."""
    host, port = workers.scheduler_address.removeprefix("tls://").split(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        converse(context, plain)


def converse(context: ssl.SSLContext, plain: socket.socket) -> None:
    with context.wrap_socket(plain) as wrapped:
        wrapped.sendall(b"x" * 64)
        if not wrapped.recv(1):
            raise ConnectionResetError
