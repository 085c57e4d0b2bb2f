"""The embedded models, which wait when a test asks them to: faults are then injected into partitions under way.

A partition that is held is begun and not finished, on every worker, for as long as the test likes. What a fault costs
is then no matter of luck: one partition for each worker that is lost. Values and identity, and with it the stage key,
are the embedded set's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etl.models import registry
from etl.models.base import Detections, Frame, ModelSet

LONGEST = 240.0  # seconds; a test that died must not leave processes that wait for ever


def build(folder: str) -> ModelSet:
    """Factory for ``models.set``; `folder` is where tests say what they want."""
    return Held(registry.build("embedded"), Path(folder))


class Held:
    """Waits in `detect` while ``<folder>/hold`` exists, with a mark ``<folder>/held/<job>-<process>`` meanwhile.

    With ``<folder>/hoard``, the first that waits takes all the memory of its job.
    """

    def __init__(self, models: ModelSet, folder: Path) -> None:
        self._models = models
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """See `etl.models.base.ModelSet.detect`."""
        self._wait()
        return self._models.detect(frames)

    def _wait(self) -> None:
        hold = self._folder / "hold"
        if not hold.exists():
            return
        mark = self._folder / "held" / f"{os.environ.get('SLURM_JOB_ID', 'local')}-{os.getpid()}"
        mark.touch()
        end = time.monotonic() + LONGEST
        while hold.exists() and time.monotonic() < end:
            if claimed(self._folder / "hoard"):
                take_all_memory(end)
            time.sleep(0.02)
        mark.unlink()


def claimed(path: Path) -> bool:
    """Whether this process is the one that takes `path` away."""
    try:
        path.rename(path.with_suffix(".taken"))
    except FileNotFoundError:
        return False
    return True


def take_all_memory(end: float) -> None:
    """Hold half as much again as the job may have, and wait for what happens."""
    wanted = int(os.environ["SLURM_MEM_PER_NODE"]) * 3 // 2  # MB
    hoard = [bytearray(os.urandom(1 << 10) * 1024) for _ in range(wanted)]
    while hoard and time.monotonic() < end:
        time.sleep(0.1)
