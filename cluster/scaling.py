"""Start, scale and count workers, the same for both kinds of cluster."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed.deploy.cluster import Cluster

from cluster.config import ClusterConfig
from cluster.errors import ClusterError
from cluster.local import LocalWorkers


def parse_target(target: str) -> tuple[int, int | None]:
    """Number, or minimum and maximum, that "12" or "2:20" stand for.

    Raises
    ------
    ClusterError
        When the text has another form, or the range is empty.
    """
    found = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", target.strip(), re.ASCII)
    low, high = (int(found[1]), None if found[2] is None else int(found[2])) if found else (0, 0)
    if not found or (high is not None and high < max(low, 1)):
        raise ClusterError("A scale is a number or MIN:MAX.", repr(target), "Say 12, or 2:20.")
    return low, high


def start_cluster(config: ClusterConfig, *, folder: Path | None, uses_gpu: bool) -> Cluster:
    """See `cluster.start`."""
    if config.kind == "slurm":
        from cluster.slurm.cluster import SlurmWorkers

        return SlurmWorkers.begin(config, folder=folder)
    cluster = LocalWorkers(config, uses_gpu=uses_gpu)
    if config.maximum is not None:
        cluster.adapt(minimum=config.minimum, maximum=config.maximum)
    else:
        cluster.scale(config.workers or cluster.default_workers)
    return cluster


def scale_to(cluster: Any, target: str) -> str:
    """See `cluster.scale_to`."""
    low, high = parse_target(target)
    adaptive, unit = getattr(cluster, "_adaptive", None), "job" if hasattr(cluster, "jobs") else "worker"
    if high is not None:
        per_job = getattr(cluster, "workers_per_job", 1)
        cluster.adapt(minimum=low * per_job, maximum=high * per_job)
        return f"between {low} and {high} {unit}s"
    if adaptive is not None:
        cluster.loop.add_callback(adaptive.stop)
    if unit == "job":
        cluster.scale(jobs=low)
    else:
        cluster.scale(low)
    return f"{low} {unit}{'s' * (low != 1)}"


def workers_summary(cluster: Any) -> dict[str, Any]:
    """Count workers.

    Returns
    -------
    dict
        ``kind``, ``workers`` (connected), ``wanted`` (workers, or jobs on SLURM), ``adaptive`` ("2:20" of what
        ``wanted`` counts, "2:" where no maximum is set, or None), ``dashboard`` (its address, None without),
        ``tunnel`` (the command that brings it to one's own machine), ``problems``; on SLURM also what else
        `cluster.slurm.cluster.SlurmWorkers.summary` gives.
    """
    adaptive, per_job = getattr(cluster, "_adaptive", None), getattr(cluster, "workers_per_job", 1)
    bounds = None
    if adaptive is not None and adaptive.state in ("starting", "running"):
        most = "" if math.isinf(adaptive.maximum) else math.ceil(adaptive.maximum / per_job)
        bounds = f"{adaptive.minimum // per_job}:{most}"
    extra = cluster.summary() if hasattr(cluster, "summary") else {"kind": "local", "problems": []}
    config = getattr(cluster, "config", None)  # a cluster that xycd didn't start has none
    link = cluster.dashboard_link if config is None or config.dashboard_address else None
    return {
        "workers": len(cluster.scheduler_info["workers"]),
        "wanted": len(cluster.worker_spec),
        "adaptive": bounds,
        "dashboard": link,
        "tunnel": tunnel(link) if link else None,
    } | extra


def tunnel(link: str) -> str:
    """The ssh command that brings the dashboard at `link` to the same port of one's own machine.

    From a driver that is a job itself, on a node, the way leads over the host that submitted it.
    """
    port, user = urlsplit(link).port, getpass.getuser()
    login = os.environ.get("SLURM_SUBMIT_HOST") if "SLURM_JOB_ID" in os.environ else None
    jump = f" -J {user}@{login}" if login else ""
    return f"ssh -N -L {port}:127.0.0.1:{port}{jump} {user}@{socket.gethostname()}"
