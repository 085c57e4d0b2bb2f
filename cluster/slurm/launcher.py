"""Start several workers in one job, each with its share of the job's GPUs: for sites that give whole nodes only.

`python -m cluster.slurm.launcher COUNT ARGUMENT...` starts `python -m distributed.cli.dask_worker ARGUMENT...` COUNT
times, with -0, -1, ... appended to the worker's name. dask's own `--nworkers` would show all GPUs to each worker.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def split_devices(devices: str | None, count: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each of `count` workers: the listed devices, divided evenly and in order.

    None where the job has no devices. More workers than devices share them in turn.
    """
    listed = [name for name in (devices or "").split(",") if name]
    if not listed:
        return [None] * count
    if len(listed) < count:
        return [listed[i % len(listed)] for i in range(count)]
    each = len(listed) // count
    return [",".join(listed[i * each : (i + 1) * each]) for i in range(count)]


def worker_arguments(argv: Sequence[str], index: int) -> list[str]:
    """The worker's arguments with its index appended to its name."""
    named = list(argv)
    place = named.index("--name") + 1
    named[place] = f"{named[place]}-{index}"
    return named


def worker_environment(environ: Mapping[str, str], device: str | None, count: int) -> dict[str, str]:
    """The worker's environment: its devices, and its share of the job's threads."""
    changed = dict(environ)
    if device is not None:
        changed["CUDA_VISIBLE_DEVICES"] = device
    for name in [name for name in changed if name.endswith("_NUM_THREADS") and changed[name].isdigit()]:
        changed[name] = str(max(1, int(changed[name]) // count))
    return changed


def main(argv: Sequence[str]) -> int:
    """Start the workers and wait for all; return the first exit status that is not 0."""
    count, rest = int(argv[0]), argv[1:]
    command = [sys.executable, "-m", "distributed.cli.dask_worker"]
    children = [
        subprocess.Popen(command + worker_arguments(rest, i), env=worker_environment(os.environ, device, count))
        for i, device in enumerate(split_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), count))
    ]

    def forward(number: int, frame: Any) -> None:
        for child in children:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    return next((code for code in [child.wait() for child in children] if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
