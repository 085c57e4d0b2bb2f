"""Workers on this machine: one process per core, or one per GPU."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
from distributed import LocalCluster

from cluster import settings
from cluster.config import ClusterConfig, memory_bytes
from cluster.errors import ClusterError
from cluster.processors import cores
from cluster.security import make_certificate, security_of

SILENCE = 60.0  # seconds without any worker after which a run says so


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
        self._environment = environment
        self.problems: list[list[Any]] = []  # [epoch second, text], as `cluster.workers_summary` shows them
        self._alone_since = time.monotonic()
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

    @property
    def failure(self) -> ClusterError | None:
        """Why a run can't go on: no worker has connected for `local.startup` seconds; a problem after a minute."""
        if self.scheduler_info["workers"] or not self.worker_spec:
            self._alone_since = time.monotonic()
            return None
        seconds = time.monotonic() - self._alone_since
        if seconds > SILENCE and not self.problems:
            self.problems.append([time.time(), f"no worker has connected for {seconds:.0f} s: {self._why_no_worker()}"])
        if seconds <= self.config.local.startup:
            return None
        return ClusterError(
            f"A local worker must connect within {self.config.local.startup} s (cluster.local.startup).",
            self.problems[-1][1] if self.problems else "no worker has connected",
            "Fix what the worker says; where it is only slow, raise cluster.local.startup.",
        )

    def _why_no_worker(self) -> str:
        """What a worker says when it starts, or why it can't reach the scheduler."""
        command = [sys.executable, "-c", "import distributed.worker, cluster.signals"]
        environment = {**os.environ, **self._environment}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SILENCE, env=environment)
        except (OSError, subprocess.SubprocessError) as error:
            return f"a Python process can't start ({error})"
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return f"a worker ends when it starts: {' / '.join(lines[-3:]) or f'exit status {done.returncode}'}"
        host, _, port = self.scheduler_address.rpartition("//")[2].rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            return f"the scheduler can't be reached at {host}:{port} ({error}): is the loopback interface up?"
        return "workers start, and the scheduler answers; the machine may be overloaded"

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
