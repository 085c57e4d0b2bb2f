"""Run many partitions: submit them to workers, record receipts and failures."""

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
from etl.store.disk import full_disk_errors
from etl.store.partition import Partition, Receipt
from etl.store.workspace import FeatureStore


@dataclass
class Outcome:
    """Result of a run of partitions.

    Parameters
    ----------
    counts : Counter
        Rows by status, in this run.
    failed : dict of str to str
        Reasons of partitions that failed as a whole, by partition id.
    stopped : bool
        Whether the user stopped the run before its end.
    pace : WorkTimes
        Seconds for which the models waited for frames and for which they worked, over all partitions.
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
    """Run partitions on the client's workers, whose number may change.

    Parameters
    ----------
    client : Client
        Connected to a running cluster.
    todo : list of Partition
        Partitions to run.
    estimator : Estimator
        Settings for the workers.
    store : FeatureStore
        Records the receipts and failures.
    report : Reporter
        Shows the progress.
    tick : callable, optional
        Called about once a second with the outcome so far and the number of submitted partitions. When it returns
        true, no more partitions are started and the running ones finish.
    capacity : callable, optional
        Returns the number of workers that may soon be there; by default those that are connected.
    task : callable
        Function that a worker runs for a partition.

    Raises
    ------
    WorkspaceError
        When a worker or the driver can't write, for example to a full disk. Others couldn't either.
    """
    outcome = Outcome()
    run = uuid.uuid4().hex[:8]
    asked, expected = -math.inf, 1
    waiting = collections.deque(todo)
    running: dict[Future, Partition] = {}
    at_stop = _RunningAtStop(client)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: client.cancel(list(running)))
        while running or (waiting and not outcome.stopped):
            if time.monotonic() - asked > 1:  # asks the scheduler, so at most once a second
                asked, expected = time.monotonic(), max(1, capacity() if capacity else len(client.nthreads()))
            # Two partitions per worker keep every worker busy, and adaptive scaling sees work for new workers. More
            # would only fill the scheduler's memory.
            room = 0 if outcome.stopped else 2 * expected + 2
            while waiting and len(running) < room:
                partition = waiting.popleft()
                # The key is unique to this run: the scheduler may still hold the partition's result of an earlier run.
                key = f"estimate-{partition.id}-{run}"
                future = client.submit(_attempt, task, partition, estimator, key=key, pure=False)
                running[future] = partition
            for future in _finished(list(running)):
                partition = running.pop(future)
                if future.status in ("cancelled", "lost"):  # its worker left, so it runs again
                    waiting.append(partition)
                else:
                    _record_result(future, partition, store, report, outcome)
            if tick is not None and tick(outcome, len(running)):  # also after a stop: `now` may follow
                outcome.stopped = True
            if outcome.stopped:
                at_stop.cancel_others(running)
    return outcome


def _attempt(
    task: Callable[[Partition, Estimator], Receipt], partition: Partition, estimator: Estimator
) -> Receipt | XycdError:
    """Run a task. Return an XycdError as a value, because dask logs a traceback of everything that is raised."""
    try:
        with full_disk_errors(estimator.features):
            return task(partition, estimator)
    except DeviceError as error:
        _end_worker(error)
        return error
    except XycdError as error:
        return error


def _end_worker(error: DeviceError) -> None:
    """End this worker if a nanny starts another one; the task then runs there."""
    if get_worker().nanny is not None:
        print(f"This worker ends: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _finished(futures: list[Future], seconds: float = 1.0) -> list[Future]:
    """Return the futures that are done; wait up to `seconds` for the first."""
    with contextlib.suppress(TimeoutError):
        wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
    return [future for future in futures if future.done()]


def _record_result(
    future: Future, partition: Partition, store: FeatureStore, report: Reporter, outcome: Outcome
) -> None:
    """Record the receipt or the failure of a finished future."""
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
            reason = f"its workers died repeatedly (out of memory?): {error}"
        store.add_failure(partition, reason)
        outcome.failed[partition.id] = reason
        report.advance(partition.rows, partition.rows)
        report.note(f"failed: {partition.key} frames {partition.first}-{partition.last}: {reason}")


class _RunningAtStop:
    """Partitions that may still finish after a stop: those that a worker had begun and still has.

    The others are cancelled and left for the next run. So is a partition whose worker is lost meanwhile, since another
    worker may never come.
    """

    def __init__(self, client: Client, interval: float = 1.0) -> None:
        self._client, self._interval = client, interval
        self._begun: dict[str, str] | None = None  # worker by key; None before the stop
        self._next = -math.inf

    def cancel_others(self, running: dict[Future, Partition]) -> None:
        """Cancel the partitions that aren't on the worker that had them at the first call; checks once per interval."""
        if time.monotonic() < self._next:
            return
        now = {key: worker for worker, keys in self._client.processing().items() for key in keys}
        first, self._begun = self._begun is None, now if self._begun is None else self._begun
        stays = {key for key, worker in now.items() if self._begun.get(key) == worker}
        gone = [future for future in running if future.key not in stays]
        if gone and not first:  # some may have just finished, with their results on the way
            with contextlib.suppress(TimeoutError):
                wait(gone, timeout=self._interval)
        gone = [future for future in gone if not future.done()]
        self._client.cancel(gone)
        for future in gone:
            del running[future]
        self._next = time.monotonic() + self._interval
