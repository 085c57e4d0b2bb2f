"""What tests of staging run in processes of their own, with every copy counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import copies
from cluster.copies import CopyStore
from tests.etl.fakes import FakeModels

_copy = copies._copy


def count_copies(log: Path) -> None:
    """Note each copy that this process begins: a line with the file's name."""

    def copy(source: int, target: Path) -> int:
        with log.open("a") as file:
            file.write(f"{target.name}\n")
        time.sleep(0.2)  # long enough for others to come and want the same
        return _copy(source, target)

    copies._copy = copy


def build(log: str, **settings: Any) -> FakeModels:
    """Fake models for a worker whose copies are counted."""
    settings.pop("cache", None)
    count_copies(Path(log))
    return FakeModels(**settings)


def use(folder: Path, original: Path, log: Path, until: Path) -> None:
    """Hold a copy until a file appears, and check that it is whole."""
    count_copies(log)
    with CopyStore(folder, 1 << 30, 0).copy(original) as path:
        assert path.read_bytes() == original.read_bytes()
        (until.parent / f"{os.getpid()}.ready").touch()
        wait_for(until.exists)


def copy_half(folder: Path, original: Path, until: Path) -> None:
    """Begin a copy, and stop in the middle until somebody kills this process."""

    def copy(source: int, target: Path) -> int:
        target.write_bytes(os.read(source, 1000))
        (until.parent / "half").touch()
        wait_for(until.exists)
        raise AssertionError("nobody killed it")

    copies._copy = copy
    with CopyStore(folder, 1 << 30, 0).copy(original):
        pass


def run_to_the_end(folder: Path, original: Path) -> None:
    """Use a copy, and end as a worker does."""
    from cluster.config import StagingConfig

    with CopyStore.of(StagingConfig(folder=str(folder), keep_free="1K")).copy(original) as path:
        assert path.exists()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
