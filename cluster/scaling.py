"""Start, scale and count workers, the same for both kinds of cluster."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from cluster.processors import cores

if TYPE_CHECKING:
    from distributed.deploy.cluster import Cluster

    from cluster.config import ClusterConfig


def start(config: ClusterConfig, *, folder: Path | None = None, uses_gpu: bool = False) -> Cluster:
    """Start workers.

    Parameters
    ----------
    config : ClusterConfig
        Number and place of the workers.
    folder : Path, optional
        The run's own folder, by default one in the home directory. On SLURM it must be on shared disk: it gets the
        jobs' logs and, while the run lasts, the TLS keys. A local cluster does not use it.
    uses_gpu : bool
        Whether tasks use a GPU. A local cluster then has one worker per GPU.

    Returns
    -------
    distributed.deploy.cluster.Cluster
        A LocalCluster or SLURMCluster, a context manager; `scale(n)`, `adapt(minimum=, maximum=)`, `close()`.

    Raises
    ------
    ClusterError
        When SLURM rejects the first job (with SLURM's message), or a GPU is wanted and there is none.
    """
    if config.kind == "slurm":
        from cluster.slurm.cluster import SlurmWorkers

        return SlurmWorkers.begin(config, folder=folder)
    from cluster.local import LocalWorkers

    workers = LocalWorkers(config, uses_gpu=uses_gpu)
    if config.maximum is not None:
        workers.adapt(minimum=config.minimum, maximum=config.maximum)
    else:
        workers.scale(config.workers or workers.default_workers)
    return workers


def parse_target(target: str) -> tuple[int, int | None]:
    """Parse "12" into (12, None) and "2:20" into (2, 20).

    Raises
    ------
    ClusterError
        When the text has another form, or the range is empty.
    """
    found = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", target.strip(), re.ASCII)
    low, high = (int(found[1]), None if found[2] is None else int(found[2])) if found else (0, 0)
    if not found or (high is not None and high < max(low, 1)):
        raise ClusterError("A scale must be a number or MIN:MAX.", f"unknown scale {target!r}", "Use 12, or 2:20.")
    return low, high


def scale_to(cluster: Any, target: str) -> str:
    """Scale to a number of workers ("12") or a range ("2:20"); on SLURM these count jobs.

    Returns
    -------
    str
        The new size as text, such as "12 jobs" or "between 2 and 20 workers".

    Raises
    ------
    ClusterError
        When `target` has another form.
    """
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
        ``kind``, ``workers`` (connected), ``wanted`` (workers, or jobs on SLURM), ``adaptive`` ("2:20" in the unit of
        ``wanted``, "2:" without a maximum, or None), ``dashboard`` (its address, or None), ``tunnel`` (the ssh command
        that forwards it to the user's own machine), ``problems``. On SLURM also the entries of
        `cluster.slurm.cluster.SlurmWorkers.summary`.
    """
    per_job, adaptive, bounds = getattr(cluster, "workers_per_job", 1), running_adaptive(cluster), None
    if adaptive is not None:
        most = "" if math.isinf(adaptive.maximum) else math.ceil(adaptive.maximum / per_job)
        bounds = f"{adaptive.minimum // per_job}:{most}"
    local = {"kind": "local", "problems": list(getattr(cluster, "problems", []))}
    extra = cluster.summary() if hasattr(cluster, "summary") else local
    config = getattr(cluster, "config", None)  # absent from a cluster that xycd did not start
    link = dashboard_link(cluster) if config is None or config.dashboard_address else None
    return {
        "workers": len(cluster.scheduler_info["workers"]),
        "wanted": len(cluster.worker_spec),
        "adaptive": bounds,
        "dashboard": link,
        "tunnel": tunnel(link) if link else None,
    } | extra


def capacity(cluster: Any) -> int:
    """Number of workers that the cluster may have soon, so that work is ready when they connect.

    An adaptive cluster without a maximum grows with the work: there it is twice the present number.
    """
    per_job, adaptive = getattr(cluster, "workers_per_job", 1), running_adaptive(cluster)
    present = max(len(cluster.scheduler_info["workers"]), per_job * len(cluster.worker_spec))
    if adaptive is None:
        return present
    if math.isinf(adaptive.maximum):
        return 2 * max(present, 1)
    return max(present, per_job * math.ceil(adaptive.maximum / per_job))


def shortage_of_cores(cluster: Any) -> str | None:
    """Sentence that says that there are more GPUs than cores, if that is so."""
    config = getattr(cluster, "config", None)  # none: a cluster of the caller's own
    if config is None:
        return None
    if config.kind == "slurm":
        gpus, available, where = config.slurm.gpus, config.slurm.cpus, " of a job"
    else:
        gpus, available, where = len(cluster.gpus), cores(), ""
    if gpus <= available:
        return None
    return (
        f"{gpus} GPUs{where} share {available} cores, and will wait for frames: a GPU needs at least one core that "
        "decodes for it. Use more cores, or fewer GPUs."
    )


def running_adaptive(cluster: Any) -> Any:
    """The cluster's `Adaptive` while it is active, else None."""
    adaptive = getattr(cluster, "_adaptive", None)
    return adaptive if adaptive is not None and adaptive.state in ("starting", "running") else None


def dashboard_link(cluster: Any) -> str:
    """The address at which the dashboard answers on this host.

    dask puts the scheduler's host into it, where nothing listens if the dashboard is bound to another address.
    """
    link, config = urlsplit(cluster.dashboard_link), getattr(cluster, "config", None)
    host = (config.dashboard_address or "").rpartition(":")[0] if config is not None else ""
    if host in ("", "0.0.0.0"):  # all of this host's addresses
        return link.geturl()
    return link._replace(netloc=f"{host}:{link.port}").geturl()


def tunnel(link: str) -> str:
    """The ssh command that forwards the dashboard at `link` to the same port of the user's own machine.

    When the driver itself runs in a job, the tunnel goes through the host that submitted the job.
    """
    port, user, host = urlsplit(link).port, getpass.getuser(), urlsplit(link).hostname
    login = os.environ.get("SLURM_SUBMIT_HOST") if "SLURM_JOB_ID" in os.environ else None
    jump = f" -J {user}@{login}" if login else ""
    return f"ssh -N -L {port}:{host}:{port}{jump} {user}@{socket.gethostname()}"
