"""The address that the scheduler listens on."""

from __future__ import annotations

import socket

import psutil
import pytest
from distributed.utils import get_ip

from cluster.config import SlurmConfig
from cluster.errors import ClusterError
from cluster.slurm import commands, network
from cluster.slurm.network import address_towards_controller, scheduler_address

CONFIG = """Configuration data as of 2026-11-25T19:42:00
SlurmctldDebug          = info
SlurmctldHost[0]        = {host}
SlurmctldLogFile        = /var/log/slurmctld.log
"""


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that this host reaches from 10.1.2.3."""
    monkeypatch.setattr(network, "address_towards_controller", lambda: "10.1.2.3")
    monkeypatch.setattr(network, "interface_address", lambda name: f"that of {name}")


@pytest.mark.parametrize(
    ("inside", "profile", "address"),
    [
        (False, {"interface": "ib0", "scheduler_interface": "bond0"}, "that of bond0"),
        (False, {"interface": "ib0"}, "that of ib0"),
        (True, {"interface": "ib0", "scheduler_interface": "bond0"}, "that of ib0"),
        (True, {"scheduler_interface": "bond0"}, "10.1.2.3"),
        (False, {}, "10.1.2.3"),
    ],
)
def test_a_driver_in_a_job_takes_the_nodes_interface(
    controller: None, inside: bool, profile: dict[str, str], address: str
) -> None:
    environ = {"SLURM_JOB_ID": "7"} if inside else {}
    assert scheduler_address(SlurmConfig.model_validate(profile), environ) == address


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(ClusterError, match=r"no ib7 with an IPv4 address.*lo \(127\.0\.0\.1\)"):
        scheduler_address(SlurmConfig(interface="ib7"), {})
    assert scheduler_address(SlurmConfig(interface="lo"), {}) == "127.0.0.1"


def own_address() -> str | None:
    """An address of this host that others see."""
    entries = [entry for found in psutil.net_if_addrs().values() for entry in found]
    found = [e.address for e in entries if e.family == socket.AF_INET and not e.address.startswith("127.")]
    return found[0] if found else None


@pytest.mark.parametrize("host", ["localhost(127.0.0.1)", "127.0.0.1", "no.such.host.invalid"])
def test_a_controller_that_tells_nothing(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run", lambda argv, timeout: CONFIG.format(host=host))
    assert address_towards_controller() is None


def test_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(argv: list[str], timeout: float) -> str:
        raise commands.CommandFailed("scontrol can't be run")

    monkeypatch.setattr(commands, "run", fails)
    assert address_towards_controller() is None
    assert scheduler_address(SlurmConfig(), {}) == get_ip()


def test_the_way_to_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    here = own_address()
    if here is None:
        pytest.skip("this host has no address but its own loopback")
    monkeypatch.setattr(commands, "run", lambda argv, timeout: CONFIG.format(host=f"head({here})"))
    monkeypatch.setattr(network, "get_ip", lambda: "the default route")
    assert scheduler_address(SlurmConfig(), {}) == here
