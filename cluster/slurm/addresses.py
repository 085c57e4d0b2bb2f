"""The one address that a run's scheduler listens on."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping

import psutil
from distributed.utils import get_ip

from cluster.config import SlurmConfig
from cluster.errors import ClusterError
from cluster.slurm import commands

CONTROLLER = re.compile(r"^SlurmctldHost\[\d+\]\s*=\s*([^\s(]+)(?:\(([^)\s]+)\))?", re.MULTILINE)


def scheduler_address(config: SlurmConfig, environ: Mapping[str, str] | None = None) -> str:
    """Address of this host for a scheduler, IPv4: that of the profile's interface, else the one that the nodes see.

    Without an interface it is the address from which this host reaches slurmctld, which the nodes reach too; where
    that runs on this very host, the one that the default route leaves by.

    Raises
    ------
    ClusterError
        When there is no such interface, or it has no address.
    """
    inside = "SLURM_JOB_ID" in (os.environ if environ is None else environ)
    # `scheduler_interface` is the login node's. A driver that is a job itself is on a node.
    name = config.interface if inside else config.scheduler_interface or config.interface
    return address_of(name) if name else towards_controller() or str(get_ip())


def address_of(interface: str) -> str:
    """IPv4 address of a network interface of this host.

    Raises
    ------
    ClusterError
        When there is no such interface, or it has no address.
    """
    known = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }
    if not known.get(interface):
        usable = ", ".join(f"{name} ({addresses[0]})" for name, addresses in known.items() if addresses)
        raise ClusterError(
            "The scheduler listens on an interface of the host that it runs on.",
            f"no {interface} with an IPv4 address on {socket.gethostname()}, but {usable}",
            "Set slurm.interface to the nodes', and slurm.scheduler_interface to the login node's.",
        )
    return known[interface][0]


def towards_controller() -> str | None:
    """Address from which this host reaches slurmctld; None where it can't be told, or slurmctld is on this host."""
    try:
        config = commands.run(["scontrol", "show", "config"], timeout=20)
    except commands.CommandFailed:
        return None
    for name, address in CONTROLLER.findall(config):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((address or name, 9))  # sends nothing: it asks which way packets would leave
            except OSError:
                continue
            found = str(probe.getsockname()[0])
        if not ipaddress.ip_address(found).is_loopback:
            return found
    return None
