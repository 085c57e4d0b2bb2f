"""Settings of dask that runs need, with the reason of each."""

from __future__ import annotations

from typing import Any, Final

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# A decoded frame is a few MB, and glibc gives such blocks back to the system as soon as they are free: asking for them
# again took 800 page faults a frame of 1000x1000 px, which a worker with the embedded networks felt as 5 % of its time.
# What is freed stays with the process instead, in one arena; the frames' number bounds how much that can be.
MEMORY: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}

# Torch's threads spin while they wait for each other, on processors that decoding threads and other people's work
# need: beside one decoder, on two busy processors, small reference networks ran at 1.0 frames/s with two threads of
# their own, at 3.3 where these sleep instead, and at 3.2 with a single thread. So threads that wait sleep, and networks
# keep as many as the worker has processors: taking one away for each decoder brought nothing more.
WAITING: Final = {"OMP_WAIT_POLICY": "PASSIVE"}

WORKER: Final[dict[str, Any]] = {
    # Memory here is frames and networks, not dask's results: a worker that pauses at 80 % never recovers.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # A busy login node or a slow network is no reason to lose a worker.
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "120s",
    "distributed.worker.daemon": True,
    # A worker has one task for a minute: looking at itself 50 or 100 times a second took it 2.8 % of a core, and
    # scheduler and client as much again. Now it is 0.4 % and 0.8 %, and the dashboard's profile still fills.
    "distributed.worker.profile.interval": "200ms",
    "distributed.admin.tick.interval": "500ms",
    # Twice a second each of them read the counters of all disks and network interfaces: a quarter of what was left.
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.system-monitor.disk": False,
    # A worker opens a port for web pages even with --no-dashboard, and TLS doesn't cover it: nothing to see there.
    "distributed.worker.http.routes": [],
}


def scheduler(worker_ttl: int, *, pages: bool) -> dict[str, Any]:
    """Settings of the process that holds scheduler and client.

    Parameters
    ----------
    worker_ttl : int
        Seconds without a heartbeat after which a worker is given up.
    pages : bool
        Whether the scheduler's HTTP port answers. It is open in any case, and beside the dashboard it would show tasks,
        logs and addresses as plain pages.
    """
    chosen = WORKER | {
        # A task that was running on 3 dying workers is called a killer by default; jobs die for other reasons. A
        # worker has one task, and one that it writes, so each death counts against few; 20 on one are its own doing.
        "distributed.scheduler.allowed-failures": 20,
        "distributed.scheduler.worker-ttl": f"{worker_ttl}s",
        "distributed.deploy.lost-worker-timeout": "5s",
        # One partition a worker at a time, beside one that gave its place up, the rest queued: what isn't assigned
        # can't be lost.
        "distributed.scheduler.worker-saturation": 1.0,
        # A partition takes seconds to minutes: grow at once instead of after the first results.
        "distributed.scheduler.unknown-task-duration": "30s",
        "distributed.adaptive.interval": "1s",
        "distributed.adaptive.wait-count": 10,
        "distributed.admin.tick.limit": "30s",  # no warnings about a busy event loop
        "distributed.scheduler.work-stealing": False,
        "distributed.logging": {"distributed": "error"},
    }
    return chosen if pages else chosen | {"distributed.scheduler.http.routes": []}


def environment(threads: int) -> dict[str, str]:
    """Environment of a worker: numeric libraries keep to so many threads, and freed memory stays at hand."""
    return {name: str(threads) for name in THREAD_VARIABLES} | WAITING | MEMORY


def as_environment(settings: dict[str, Any]) -> dict[str, str]:
    """Dask settings as the environment variables that dask reads them from."""
    return {"DASK_" + key.upper().replace(".", "__").replace("-", "_"): str(value) for key, value in settings.items()}
