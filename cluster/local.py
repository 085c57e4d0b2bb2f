"""Workers on this machine: one process per core, or one per GPU."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import dask
from distributed import LocalCluster

from cluster import settings
from cluster.config import ClusterConfig, memory_bytes
from cluster.errors import ClusterError
from cluster.processors import cores
from cluster.security import make_certificate, security_of


def visible_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name and name != "-1"]
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(line for line in found.stdout.splitlines() if line.startswith("GPU "))]


class LocalWorkers(LocalCluster):
    """A LocalCluster of processes, started by `cluster.start`; with GPUs, each worker sees one of them."""

    def __init__(self, config: ClusterConfig, *, uses_gpu: bool = False, folder: Path | None = None) -> None:
        wanted = config.local.gpus
        if wanted == "none" or (wanted == "auto" and not uses_gpu):
            self.gpus: list[str] = []
        else:
            self.gpus = visible_gpus() if wanted == "auto" else [str(i) for i in wanted]
            if not self.gpus:
                raise ClusterError(
                    "Models that run on a GPU need one.",
                    "no GPU in CUDA_VISIBLE_DEVICES or nvidia-smi",
                    "Set the models to run on the CPU, or run on a machine with a GPU.",
                )
        self.config = config
        self.limit = len(self.gpus) or None
        self.threads = config.threads_per_worker or self._share_of_cores()
        environment = settings.environment(self.threads)
        if wanted == "none":
            environment["CUDA_VISIBLE_DEVICES"] = ""  # networks must not find a GPU by themselves
        pages = config.dashboard_address is not None
        dask_settings = settings.scheduler(config.worker_ttl, pages=pages)
        dask_settings["distributed.nanny.pre-spawn-environ"] = environment
        self._undo = contextlib.ExitStack()
        self._undo.enter_context(dask.config.set(dask_settings))
        try:
            super().__init__(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                # Without an address dask's HTTP server would listen on port 8787 of every interface.
                dashboard_address=config.dashboard_address or "127.0.0.1:0",
                scheduler_kwargs={"dashboard": pages},
                worker_dashboard_address=None,
                memory_limit=memory_bytes(config.memory) if config.memory else 0,
                env=environment,
                preload=["cluster.signals"],
                # Other users of this machine can reach its ports too.
                security=security_of(*make_certificate()),
                local_directory=str(folder) if folder else None,
                silence_logs=logging.ERROR,
            )
        except BaseException:
            self._undo.close()
            raise

    @property
    def default_workers(self) -> int:
        """Default number of workers: one per GPU, or one per `threads_per_worker` cores."""
        return self.limit or max(1, cores() // self.threads)

    def _share_of_cores(self) -> int:
        """Default threads of a worker: 1, or with GPUs its share of the cores, which decode for the GPU."""
        if self.limit is None:
            return 1
        return max(1, cores() // min(self.config.workers or self.config.maximum or self.limit, self.limit))

    def new_worker_spec(self) -> dict[Any, Any]:
        """Name and specification of the next worker; with GPUs, it gets the GPU with the fewest workers."""
        [(name, spec)] = super().new_worker_spec().items()
        if not self.gpus:
            return {name: spec}
        taken = [s["options"]["env"].get("CUDA_VISIBLE_DEVICES") for s in self.worker_spec.values()]
        device = min(self.gpus, key=taken.count)
        options = spec["options"]
        return {name: spec | {"options": options | {"env": options["env"] | {"CUDA_VISIBLE_DEVICES": device}}}}

    def close(self, timeout: float | None = None) -> Any:
        """Stop workers and scheduler, and restore dask's settings."""
        try:
            return super().close(timeout)
        finally:
            self._undo.close()
