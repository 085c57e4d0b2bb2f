"""Preflight check of a node: one short job reports what the node offers."""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cluster
from cluster.config import ClusterConfig, SlurmConfig, walltime_seconds
from cluster.errors import ClusterError
from cluster.processors import cores

WALLTIME = 1800  # seconds; a scheduler with backfill starts a short job early
MAX_SKEW = 60.0  # seconds; a larger clock difference breaks file times and certificates


@dataclass(frozen=True)
class Needs:
    """Requirements that a node must meet.

    Parameters
    ----------
    readable, writable : mapping of str to Path
        Folders or files by their role: "workspace", "dataset", "weights".
    free_bytes, free_inodes : int
        Needed in each writable folder.
    gpu, torch_cuda : bool
        Whether nvidia-smi must see a GPU, and whether torch must see one.
    """

    readable: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    free_bytes: int = 0
    free_inodes: int = 0
    gpu: bool = False
    torch_cuda: bool = False


def gpus() -> list[dict[str, str]]:
    """Name, driver and memory of each GPU that nvidia-smi lists."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()]
    return [dict(zip(("name", "driver", "memory"), row, strict=True)) for row in rows if len(row) == 3]


def torch_cuda() -> dict[str, Any]:
    """Version of torch, and whether it computes on a GPU; `error` when torch fails."""
    try:
        import torch

        found: dict[str, Any] = {"version": str(torch.__version__), "cuda": bool(torch.cuda.is_available())}
        if found["cuda"]:
            found["device"] = torch.cuda.get_device_name(0)
            found["sum"] = float(torch.ones(8, device="cuda").sum())  # a wrong driver fails here, not earlier
        return found
    except Exception as error:  # torch may fail in many ways; each belongs in the report
        return {"cuda": False, "error": f"{type(error).__name__}: {error}"}


def path_report(path: Path, write: bool) -> dict[str, Any]:
    """Whether `path` can be read (and written), and the free space and inodes there.

    It reads and writes for real, because listed access rights are unreliable on NFS.
    """
    report: dict[str, Any] = {"path": str(path), "ok": False}
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                next(entries, None)
        else:
            with path.open("rb") as file:
                file.read(1)
        if write:
            probe = path / f".probe.{secrets.token_hex(6)}"
            try:
                probe.write_bytes(b"x" * 4096)
            finally:
                probe.unlink(missing_ok=True)
        found = os.statvfs(path)
        report["free_bytes"] = found.f_bavail * found.f_frsize
        report["free_inodes"] = found.f_favail if found.f_files else None  # None: the file system does not count them
        report["ok"] = True
    except OSError as error:
        report["error"] = error.strerror or str(error)
    return report


def node_report(needs: Needs, extras: Mapping[str, Callable[[], Any]] | None = None) -> dict[str, Any]:
    """Report on the machine that runs this function.

    Parameters
    ----------
    needs : Needs
        What to look at.
    extras : mapping of str to callable, optional
        Further checks of the caller, such as a measurement of frames/s. Each is called without arguments; the report
        holds its result, or ``{"error": ...}``, under its name.

    Returns
    -------
    dict
        JSON-ready: host, job, python, cpus, gpus, cuda_visible_devices, torch (if needed), paths, clock, extras.
    """
    paths = {name: path_report(path, False) for name, path in needs.readable.items()}
    paths |= {name: path_report(path, True) for name, path in needs.writable.items()}
    results: dict[str, Any] = {}
    for name, check in (extras or {}).items():
        try:
            results[name] = check()
        except Exception as error:  # the caller's code may fail on a bad node: report it and go on
            results[name] = {"error": f"{type(error).__name__}: {error}"}
    return {
        "host": platform.node(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "python": platform.python_version(),
        "cpus": cores(),
        "gpus": gpus(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "torch": torch_cuda() if needs.torch_cuda else None,
        "paths": paths,
        "extras": results,
        "clock": time.time(),  # last, just before the report is sent
    }


def find_problems(report: Mapping[str, Any], needs: Needs) -> list[str]:
    """Problems of the node that would make a run fail, one sentence each."""
    found = []
    for name, path in report["paths"].items():
        if not path["ok"]:
            found.append(f"{name} can't be used on {report['host']}: {path['path']}: {path['error']}.")
        elif name in needs.writable:
            if path["free_bytes"] < needs.free_bytes:
                found.append(
                    f"{name} has {path['free_bytes'] / 1e9:.1f} GB left, {needs.free_bytes / 1e9:.1f} are needed."
                )
            if path["free_inodes"] is not None and path["free_inodes"] < needs.free_inodes:
                found.append(f"{name} has {path['free_inodes']} inodes left, {needs.free_inodes} are needed.")
    if needs.gpu and not report["gpus"]:
        found.append(f"No GPU on {report['host']}: nvidia-smi sees none. Request one with gres.")
    if needs.torch_cuda and not report["torch"]["cuda"]:
        found.append(
            f"torch can't use a GPU on {report['host']}: {report['torch'].get('error', 'CUDA not available')}."
        )
    if abs(report.get("clock_skew_s", 0.0)) > MAX_SKEW:
        found.append(f"The clock of {report['host']} differs by {report['clock_skew_s']:.0f} s.")
    for name, answer in report["extras"].items():
        if isinstance(answer, dict) and "error" in answer:
            found.append(f"{name}: {answer['error']}.")
    return found


def short_profile(config: SlurmConfig) -> SlurmConfig:
    """The profile with a short walltime that is enough for a check."""
    short = min(walltime_seconds(config.walltime), WALLTIME)
    return config.model_copy(update={"walltime": f"{short // 60}:{short % 60:02d}"})


def check_node(
    config: ClusterConfig,
    needs: Needs,
    *,
    folder: Path | None = None,
    extras: Mapping[str, Callable[[], Any]] | None = None,
    timeout: float = 3600,
) -> dict[str, Any]:
    """Start one worker as the configuration says, and run `node_report` on it.

    Returns
    -------
    dict
        `node_report`'s entries, and ``first_worker_s``, ``clock_skew_s`` (the node's clock minus this host's),
        ``scheduler`` (the address that the worker reached), ``problems``.

    Raises
    ------
    ClusterError
        When SLURM refuses the job, or no worker connects within `timeout` seconds.
    """
    from distributed import Client

    one = config.model_copy(update={"workers": 1, "minimum": 0, "maximum": None, "slurm": short_profile(config.slurm)})
    began = time.monotonic()
    with cluster.start(one, folder=folder, uses_gpu=needs.gpu) as workers, Client(workers) as client:
        while not workers.scheduler_info["workers"]:
            failure = getattr(workers, "failure", None)
            if failure is not None:
                raise failure
            if time.monotonic() - began > timeout:
                raise ClusterError(
                    "A check needs one worker that connects.",
                    f"no worker within {timeout:.0f} s: {cluster.workers_summary(workers)}",
                    "Wait for the queue, or request fewer resources.",
                )
            time.sleep(0.1)
        arrived = time.monotonic() - began
        # The first call also loads modules, so the clock is compared in a call of its own.
        report: dict[str, Any] = client.submit(node_report, needs, extras, pure=False).result(timeout=timeout)
        sent = time.time()
        clock = client.submit(time.time, pure=False).result(timeout=timeout)
        report["clock"], report["clock_skew_s"] = clock, round(clock - (sent + time.time()) / 2, 3)
        report["first_worker_s"] = round(arrived, 1)
        report["scheduler"] = workers.scheduler_address
    report["problems"] = find_problems(report, needs)
    return report
