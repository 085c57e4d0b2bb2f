"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.slurm.boot import output


def until(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain {what}: {output('squeue')}"
        time.sleep(0.05)
