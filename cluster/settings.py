"""Dask settings and environment variables of a run, with the reason for each."""

from __future__ import annotations

from typing import Any, Final

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# A decoded frame is a few MB. By default glibc returns freed blocks of that size to the system; requesting them again
# took 800 page faults per frame of 1000x1000 px, 5 % of the time of a worker with the embedded networks. With these
# settings, freed blocks stay with the process, in one arena. The number of frames in flight bounds their size.
MEMORY: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}

# By default torch's threads spin while they wait, and take cores from decoding threads and from other users. Small
# reference networks beside one decoder on two busy cores ran at 1.0 frames/s with two spinning threads, at 3.3 with two
# sleeping threads, and at 3.2 with one thread. So waiting threads sleep, and networks use as many threads as the worker
# has cores: one fewer per decoder brought nothing more.
WAITING: Final = {"OMP_WAIT_POLICY": "PASSIVE"}

WORKER: Final[dict[str, Any]] = {
    # Workers hold frames and networks, not dask's results, so a worker that pauses at 80 % would never continue.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # A busy login node or a slow network must not cost a worker.
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "120s",
    "distributed.worker.daemon": True,
    # A task lasts about a minute. Dask's defaults, 50 to 100 samples per second, took 2.8 % of a core in a worker and
    # as much in scheduler and client. These take 0.4 % and 0.8 %, and the dashboard still shows a profile.
    "distributed.worker.profile.interval": "200ms",
    "distributed.admin.tick.interval": "500ms",
    # By default each process reads the counters of all disks and networks twice a second, a quarter of what was left.
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.system-monitor.disk": False,
    # A worker opens an HTTP port even with --no-dashboard, and TLS doesn't cover it, so it must show nothing.
    "distributed.worker.http.routes": [],
}


def scheduler(worker_ttl: int, *, pages: bool) -> dict[str, Any]:
    """Settings of the process that runs scheduler and client.

    Parameters
    ----------
    worker_ttl : int
        Seconds without a heartbeat after which a worker counts as lost.
    pages : bool
        Whether the scheduler's HTTP port shows pages. The port is always open, and besides the dashboard it would show
        tasks, logs and addresses.
    """
    chosen = WORKER | {
        # By default a task fails after 3 workers died under it, but jobs die for other reasons. A worker has one task
        # and one that it writes, so each death counts against few tasks: 20 deaths are the task's own fault.
        "distributed.scheduler.allowed-failures": 20,
        "distributed.scheduler.worker-ttl": f"{worker_ttl}s",
        "distributed.deploy.lost-worker-timeout": "5s",
        # A worker has one partition, besides one that seceded; the others stay queued. What isn't assigned can't be
        # lost.
        "distributed.scheduler.worker-saturation": 1.0,
        # A partition takes seconds to minutes, so an adaptive cluster grows at once, not after the first results.
        "distributed.scheduler.unknown-task-duration": "30s",
        "distributed.adaptive.interval": "1s",
        "distributed.adaptive.wait-count": 10,
        "distributed.admin.tick.limit": "30s",  # no warnings about a busy event loop
        "distributed.scheduler.work-stealing": False,
        "distributed.logging": {"distributed": "error"},
    }
    return chosen if pages else chosen | {"distributed.scheduler.http.routes": []}


def environment(threads: int) -> dict[str, str]:
    """Environment of a worker whose numeric libraries use `threads` threads."""
    return {name: str(threads) for name in THREAD_VARIABLES} | WAITING | MEMORY


def as_environment(settings: dict[str, Any]) -> dict[str, str]:
    """Environment variables from which dask reads these settings."""
    return {"DASK_" + key.upper().replace(".", "__").replace("-", "_"): str(value) for key, value in settings.items()}
