"""TLS: a client with the run's certificate connects, any other is refused."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from cryptography import x509
from distributed import Client, LocalCluster

import cluster
from cluster.config import ClusterConfig
from cluster.security import DAYS, make_certificate, security_of
from tests.cluster import tasks


def test_certificate_bears_clocks_that_differ() -> None:
    found = x509.load_pem_x509_certificate(make_certificate()[0].encode())
    now = time.time()
    assert found.not_valid_before_utc.timestamp() < now - 86000
    assert now + (DAYS - 1) * 86400 < found.not_valid_after_utc.timestamp() < now + (DAYS + 1) * 86400


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
        Client(workers.scheduler_address, security=security_of(*make_certificate()), timeout="3s")


def test_stranger_without_a_certificate_gets_no_answer(workers: LocalCluster) -> None:
    """Encryption alone is not enough: the scheduler requires this run's certificate."""
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
