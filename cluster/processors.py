"""Number of processor cores that this process may use; a shared machine has more."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that the system lets this process use: those of its job, its container or taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processors() -> int:
    """Cores that this worker may use: those that its cluster reserved for it, else `cores`."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(given), cores()) if given.isdecimal() and int(given) > 0 else cores()
