"""What the driver does with many partitions: hand them to workers, keep the receipts, survive failures."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from distributed import Client, Future, KilledWorker, get_worker, wait

from etl.errors import DeviceError, WorkspaceError, XycdError
from etl.stages.estimate import Estimator, estimate_partition
from etl.stages.progress import Reporter
from etl.stages.throughput import WorkTimes
from etl.store.partition import Partition, Receipt
from etl.store.workspace import FeatureStore, full_disk_errors


@dataclass
class Outcome:
    """What became of a run of partitions.

    Parameters
    ----------
    counts : Counter
        Rows by status, in this run.
    failed : dict of str to str
        Reason by partition id, of partitions that raised as a whole.
    stopped : bool
        Whether somebody asked the run to stop before the end.
    pace : WorkTimes
        Seconds in which the models waited for frames and in which they worked, all partitions together.
    """

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    pace: WorkTimes = field(default_factory=WorkTimes)


def run_partitions(
    client: Client,
    todo: list[Partition],
    estimator: Estimator,
    store: FeatureStore,
    report: Reporter,
    *,
    tick: Callable[[Outcome, int], bool] | None = None,
    capacity: Callable[[], int] | None = None,
    task: Callable[[Partition, Estimator], Receipt] = estimate_partition,
) -> Outcome:
    """Run partitions on the client's workers, however many there are at the moment.

    Parameters
    ----------
    client : Client
        Connected to a running cluster.
    todo : list of Partition
        What to run.
    estimator : Estimator
        How.
    store : FeatureStore
        Gets the receipts and failures.
    report : Reporter
        Gets the progress.
    tick : callable, optional
        Called about once a second, to the end, with the outcome so far and the number of partitions under way; true
        asks to start no more partitions and to finish those that run.
    capacity : callable, optional
        How many workers there may be soon; by default those that are there.
    task : callable
        What to run for a partition.

    Raises
    ------
    WorkspaceError
        When a worker or the driver can't write, to a full disk for example: the others couldn't either.
    """
    outcome = Outcome()
    run = uuid.uuid4().hex[:8]
    asked, expected = -math.inf, 1
    waiting = collections.deque(todo)
    running: dict[Future, Partition] = {}
    last = _LastRound(client)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: client.cancel(list(running)))
        while running or (waiting and not outcome.stopped):
            if time.monotonic() - asked > 1:  # a question to the scheduler; not one a partition
                asked, expected = time.monotonic(), max(1, capacity() if capacity else len(client.nthreads()))
            # Twice the workers keeps every worker fed, and adaptive scaling sees work for those to come; more would
            # only fill the scheduler's memory.
            room = 0 if outcome.stopped else 2 * expected + 2
            while waiting and len(running) < room:
                partition = waiting.popleft()
                # A key of this run's own: the scheduler may still know the last run's outcome of the partition.
                key = f"estimate-{partition.id}-{run}"
                future = client.submit(_attempt, task, partition, estimator, key=key, pure=False)
                running[future] = partition
            for future in _finished(list(running)):
                partition = running.pop(future)
                if future.status in ("cancelled", "lost"):  # its worker left with it: it runs again
                    waiting.append(partition)
                else:
                    _settle(future, partition, store, report, outcome)
            if tick is not None and tick(outcome, len(running)):  # also after a stop: the user may want it now
                outcome.stopped = True
            if outcome.stopped:
                last.withdraw(running)
    return outcome


def _attempt(
    task: Callable[[Partition, Estimator], Receipt], partition: Partition, estimator: Estimator
) -> Receipt | XycdError:
    """Run a task; what it says in words comes back as a value, since dask logs a traceback of all that is raised."""
    try:
        with full_disk_errors(estimator.features):
            return task(partition, estimator)
    except DeviceError as error:
        _make_way(error)
        return error
    except XycdError as error:
        return error


def _make_way(error: DeviceError) -> None:
    """End this worker, which can't go on, where somebody starts another; its task then runs there."""
    if get_worker().nanny is not None:
        print(f"This worker ends: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _finished(futures: list[Future], seconds: float = 1.0) -> list[Future]:
    """Futures that are done, waiting up to `seconds` for the first."""
    with contextlib.suppress(TimeoutError):
        wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
    return [future for future in futures if future.done()]


def _settle(future: Future, partition: Partition, store: FeatureStore, report: Reporter, outcome: Outcome) -> None:
    """Take a finished future's receipt, or note why it has none."""
    error = future.exception()
    result: Receipt | XycdError | None = future.result() if error is None else None
    if isinstance(result, Receipt):
        store.add_receipt(result)
        outcome.counts.update(result.counts)
        outcome.pace.wait_s += result.wait_s
        outcome.pace.model_s += result.model_s
        report.advance(result.rows, result.rows - result.counts.get("ok", 0))
    elif isinstance(result, WorkspaceError):
        raise result
    else:
        reason = f"{type(error).__name__}: {error}" if result is None else str(result)
        if isinstance(error, KilledWorker):
            reason = f"its worker died again and again (out of memory?): {error}"
        store.add_failure(partition, reason)
        outcome.failed[partition.id] = reason
        report.advance(partition.rows, partition.rows)
        report.note(f"failed: {partition.key} frames {partition.first}-{partition.last}: {reason}")


class _LastRound:
    """What may still finish once the run is asked to stop: partitions that a worker had begun, while it has them.

    The others are taken back, and stay to do for the next run; so does a partition whose worker is lost meanwhile,
    for which there may never be another.
    """

    def __init__(self, client: Client, interval: float = 1.0) -> None:
        self._client, self._interval = client, interval
        self._begun: dict[str, str] | None = None  # worker by key; None before the stop
        self._next = -math.inf

    def withdraw(self, running: dict[Future, Partition]) -> None:
        """Take back what isn't where it was when this was first called; a question to the scheduler, now and then."""
        if time.monotonic() < self._next:
            return
        now = {key: worker for worker, keys in self._client.processing().items() for key in keys}
        first, self._begun = self._begun is None, now if self._begun is None else self._begun
        stays = {key for key, worker in now.items() if self._begun.get(key) == worker}
        gone = [future for future in running if future.key not in stays]
        if gone and not first:  # what has just finished isn't with its worker any more either; word of it is under way
            with contextlib.suppress(TimeoutError):
                wait(gone, timeout=self._interval)
        gone = [future for future in gone if not future.done()]
        self._client.cancel(gone)
        for future in gone:
            del running[future]
        self._next = time.monotonic() + self._interval
