"""How many processor cores there are for this process, which on shared machines are fewer than there are at all."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that the system lets this process use: those of its job, of its container, of taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
