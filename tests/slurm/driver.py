"""A small driver: what xycd's own does, on the partitions of tests/slurm/tasks.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Client

import cluster
from tests.slurm import tasks

WINDOW = 12


def drive(
    workers: Any,
    base: Path,
    count: int,
    seconds: float,
    task: Callable[[int, float, str], int] = tasks.partition,
    *,
    each: Callable[[int], bool] | None = None,
    timeout: float = 180,
) -> int:
    """Run all partitions that have no result yet, a few at a time; how many ran.

    `each` is called with the number done whenever something may have changed; when it returns true no more are
    begun.
    """
    tasks.prepare(base)
    todo = [number for number in range(count) if number not in tasks.done(base)]
    end = time.monotonic() + timeout
    finished, stopping = 0, False
    with Client(workers) as client:
        window: set[Any] = set()
        while (todo and not stopping) or window:
            while todo and not stopping and len(window) < WINDOW:
                window.add(client.submit(task, todo.pop(0), seconds, str(base), pure=False))
            if stopping:
                window -= withdraw(client, window)
            for future in [future for future in window if future.done()]:
                future.result()
                future.release()
                window.discard(future)
                finished += 1
            stopping = bool(each and each(finished)) or stopping
            failure = getattr(workers, "failure", None)
            if failure:
                raise failure
            if time.monotonic() > end:
                raise TimeoutError(f"{finished} done, {len(todo)} to do: {cluster.workers_summary(workers)}")
            time.sleep(0.05)
    return finished


def withdraw(client: Client, window: set[Any]) -> set[Any]:
    """Cancel the partitions that no worker has begun."""
    running = {key for keys in client.processing().values() for key in keys}
    waiting = {future for future in window if future.key not in running and not future.done()}
    client.cancel(list(waiting))
    return waiting
