"""What tests run on workers: importable there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def double(x: int) -> int:
    return 2 * x


def surroundings() -> dict[str, str | None]:
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
    return {name: os.environ.get(name) for name in names} | {"pid": str(os.getpid())}


def die_once(note: str) -> str:
    """Kill the worker at the first call; a note on disk tells the second."""
    path = Path(note)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def sleep_until(path: str, seconds: float = 60) -> bool:
    """Say that the task runs, and in which process, then wait for a file."""
    with Path(path + ".running").open("a") as note:
        note.write(f"{os.getpid()}\n")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if Path(path).exists():
            return True
        time.sleep(0.05)
    return False
