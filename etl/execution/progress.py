"""Progress of a stage: shown by the reporter, published for `xycd status`, and ended when the user stops the run."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from etl.stages.progress import Reporter

if TYPE_CHECKING:
    from etl.execution.driver import Driver
    from etl.execution.scheduling import Outcome

WINDOW: Final = 600.0  # seconds over which the rate is measured
FEWEST: Final = 8  # results that are kept even if they are older: a partition may take longer than the window
TOGETHER: Final = 1.0  # seconds within which results are counted as one


class Rate:
    """Units per second over the last results.

    The wait before the first result doesn't count: jobs may be queued. Old results don't count either, so that more
    workers show within minutes.

    Parameters
    ----------
    clock : callable
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recorded: collections.deque[tuple[float, float]] = collections.deque()  # time, units so far

    def record(self, done: float) -> None:
        """Record the number of units done so far; the first call is the start of the count."""
        if self._recorded and done == self._recorded[-1][1]:
            return
        now = self._clock()
        if len(self._recorded) > 1 and now - self._recorded[-2][0] < TOGETHER:
            self._recorded.pop()
        self._recorded.append((now, done))
        while len(self._recorded) > FEWEST and now - self._recorded[1][0] > WINDOW:
            self._recorded.popleft()

    def per_second(self) -> float:
        """Return units per second; 0 before the first result. It falls while no result comes."""
        if len(self._recorded) < 2:
            return 0.0
        (begun, first), (_, last) = self._recorded[0], self._recorded[-1]
        return (last - first) / max(self._clock() - begun, 1e-9)


class Progress:
    """Progress of the stages on one dataset; a `Reporter` that also publishes the status and checks for a stop.

    Annotate and merge call `start` and `advance`, which raise `Stopped` when the run must stop: the sequences that they
    have finished stay. Estimate calls `begin` and `check_in` instead: partitions that run are finished first.

    Parameters
    ----------
    report : Reporter
        Shows the progress.
    driver : Driver
        Publishes the status, and knows whether to stop.
    dataset : str
        Name of the dataset.
    """

    def __init__(self, report: Reporter, driver: Driver, dataset: str) -> None:
        self._report, self._driver, self._dataset = report, driver, dataset
        self.begin("", 0)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        """Set the counts at the start of a stage."""
        self._title, self._total, self._first, self._unit = title, total, done, unit
        self._done, self._failed, self._rate, self._published = done, 0, Rate(), 0.0

    def start(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        """See `etl.stages.progress.Reporter`."""
        self.begin(title, total, done, unit)
        self._report.start(title, total, done, unit)
        self._step()

    def advance(self, units: int, failed: int = 0) -> None:
        """See `etl.stages.progress.Reporter`."""
        self._done += units
        self._failed += failed
        self._report.advance(units, failed)
        self._step()

    def finish(self, summary: str) -> None:
        """See `etl.stages.progress.Reporter`."""
        self._report.finish(summary)

    def note(self, text: str) -> None:
        """See `etl.stages.progress.Reporter`."""
        self._report.note(text)

    def _step(self) -> None:
        self._rate.record(self._done)
        self._publish()
        self._driver.raise_if_stopped()

    def check_in(self, outcome: Outcome, running: int) -> bool:
        """Publish the outcome of an estimate so far; see `tick` of `etl.execution.scheduling.run_partitions`."""
        new = outcome.counts.total()
        self._done, self._failed = self._first + new, new - outcome.counts["ok"]
        if new or self._driver.workers().get("workers"):  # no rate is measured while jobs are queued
            self._rate.record(self._done)
        self._publish(
            failed_partitions=len(outcome.failed),
            partitions_under_way=running,
            waiting=round(outcome.pace.waiting, 3) if outcome.pace.model_s else None,
        )
        return self._driver.poll()

    def _publish(self, **facts: Any) -> None:
        """Publish the status, at most once a second: many partitions may finish at once."""
        now = time.monotonic()
        if now - self._published < 1:
            return
        self._published = now
        rate = self._rate.per_second()
        self._driver.publish(
            stage=self._title,
            dataset=self._dataset,
            unit=self._unit,
            rows_done=self._done,
            rows_total=self._total,
            rate=round(rate, 2),
            seconds_left=round((self._total - self._done) / rate) if rate else None,
            failed_rows=self._failed,
            stopping=self._driver.stopping,
            workers=self._driver.workers(),
            **facts,
        )
