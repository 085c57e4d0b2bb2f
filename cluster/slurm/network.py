"""The address and the port that a run's scheduler listens on."""

from __future__ import annotations

import contextlib
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
    """IPv4 address of this host that the scheduler listens on.

    It is the address of the profile's interface. Without one it is the address from which this host reaches
    slurmctld, since the nodes reach that too. Where slurmctld runs on this host, it is that of the default route.

    Raises
    ------
    ClusterError
        When there is no such interface, or it has no address.
    """
    inside = "SLURM_JOB_ID" in (os.environ if environ is None else environ)
    # `scheduler_interface` is the login node's. A driver that is a job itself runs on a compute node.
    name = config.interface if inside else config.scheduler_interface or config.interface
    return interface_address(name) if name else address_towards_controller() or str(get_ip())


def interface_address(interface: str) -> str:
    """IPv4 address of a network interface of this host; ClusterError when it has none."""
    known = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }
    if not known.get(interface):
        usable = ", ".join(f"{name} ({addresses[0]})" for name, addresses in known.items() if addresses)
        raise ClusterError(
            "The scheduler needs an interface of its host.",
            f"no {interface} with an IPv4 address on {socket.gethostname()}, but {usable}",
            "Set slurm.interface to the nodes' interface, and slurm.scheduler_interface to the login node's.",
        )
    return known[interface][0]


def address_towards_controller() -> str | None:
    """Address from which this host reaches slurmctld; None when it is unknown or slurmctld runs on this host."""
    try:
        config = commands.run(["scontrol", "show", "config"], timeout=20)
    except commands.CommandFailed:
        return None
    for name, address in CONTROLLER.findall(config):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((address or name, 9))  # sends nothing: it only looks up the route
            except OSError:
                continue
            found = str(probe.getsockname()[0])
        if not ipaddress.ip_address(found).is_loopback:
            return found
    return None


def free_port(host: str, first: int, last: int) -> int:
    """First free port of `host` between `first` and `last`; ClusterError when there is none."""
    for port in range(first, last + 1):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise ClusterError(
        "The scheduler needs a free port within scheduler_ports.",
        f"no free port in {first}:{last} on {host}",
        "Widen scheduler_ports.",
    )
