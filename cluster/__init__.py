"""Workers on this machine or on a SLURM cluster.

    config = ClusterConfig(kind="slurm", workers=4)
    with cluster.start(config, folder=workspace / "run") as workers:
        workers.scale(8)

Importing this package does not import dask: `start` does.
"""

from cluster.scaling import capacity, scale_to, shortage_of_cores, start, workers_summary

__all__ = ["capacity", "scale_to", "shortage_of_cores", "start", "workers_summary"]
