"""Where the workers come from: this machine or a SLURM cluster.

    config = ClusterConfig(kind="slurm", workers=4)
    with cluster.start(config, folder=workspace / "run") as workers:
        workers.scale(8)

What is here imports dask when called, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.deploy.cluster import Cluster

    from cluster.config import ClusterConfig

__all__ = ["scale_to", "start", "workers_summary"]


def start(config: ClusterConfig, *, folder: Path | None = None, uses_gpu: bool = False) -> Cluster:
    """Start workers.

    Parameters
    ----------
    config : ClusterConfig
        How many, and where.
    folder : Path, optional
        The run's own folder; on SLURM it is on shared disk and gets the jobs' logs and, while the run lasts, the
        keys. Defaults to a folder in the home directory.
    uses_gpu : bool
        Whether tasks use a GPU; a local cluster then has one worker a GPU.

    Returns
    -------
    distributed.deploy.cluster.Cluster
        A LocalCluster or SLURMCluster, a context manager; `scale(n)`, `adapt(minimum=, maximum=)`, `close()`.

    Raises
    ------
    cluster.errors.ClusterError
        When SLURM rejects the first job (with its words), or a GPU is wanted and there is none.
    """
    from cluster.scaling import start_cluster

    return start_cluster(config, folder=folder, uses_gpu=uses_gpu)


def scale_to(cluster: Cluster, target: str) -> str:
    """Scale to a number of workers ("12") or a range ("2:20"); on SLURM these count jobs.

    Returns
    -------
    str
        What was done, for people.

    Raises
    ------
    cluster.errors.ClusterError
        When `target` has another form.
    """
    from cluster.scaling import scale_to

    return scale_to(cluster, target)


def workers_summary(cluster: Cluster) -> dict[str, Any]:
    """Workers, and on SLURM jobs pending and running by node; see `cluster.scaling.workers_summary`."""
    from cluster.scaling import workers_summary

    return workers_summary(cluster)
