"""The driver's surroundings: workers when there is work, signals, and the way in from other terminals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import cluster
from cluster.control import Controller
from cluster.errors import ClusterError
from cluster.signals import Interrupts
from cluster.slurm.shared_folder import shared_folder
from etl.config import Config
from etl.execution.throughput import Rate
from etl.stages.progress import Reporter

if TYPE_CHECKING:
    from cluster.slurm.commands import QueuedJob
    from etl.execution.scheduling import Outcome

RUN_FOLDER = "run"
DECODE_BOUND = 0.2  # share of their time in which the models of such a run wait for frames


class Stopped(Exception):
    """Somebody asked the run to stop; what was going on stays to do."""


class Driver:
    """Starts the configured cluster at first use, and closes what it has started.

    While it is open, `xycd status`, `scale` and `stop` reach the run through `<workspace>/run`, Ctrl-C finishes
    what is running, and a closed terminal doesn't matter.

    Parameters
    ----------
    config : Config
        Its section `cluster` says where workers come from.
    report : Reporter
        Gets notes.
    given : dask cluster, optional
        A running one to use instead; it stays open.
    """

    def __init__(self, config: Config, report: Reporter, given: Any = None) -> None:
        self.config = config
        self.report = report
        self.cluster: Any = given
        self._client: Any = None
        self._given = given is not None
        self._stack = contextlib.ExitStack()
        self._workers = contextlib.ExitStack()  # the client, and the cluster if it was started here
        self._past: dict[str, Any] = {}  # what is still to be told of a cluster that was let go
        self._folder = config.workspace.resolve() / RUN_FOLDER
        self._controller = Controller(self._folder)
        self._interrupts = Interrupts(
            lambda: self.report.note("Finishing what is running; Ctrl-C again leaves at once.")
        )
        self._told = False  # by another terminal, to stop
        self._facts: dict[str, Any] = {}
        if config.cluster.kind == "slurm":
            self._facts["folder"] = str(shared_folder(config.cluster, self._folder))

    def __enter__(self) -> Self:
        self._stack.enter_context(self._controller)
        self._stack.enter_context(self._interrupts)
        self.publish()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self._close_workers()

    def dismiss(self) -> None:
        """Let the workers go that were started here: whoever only merges keeps no GPU from others. See `client`."""
        if not self._given and self.cluster is not None:
            told = self.workers()
            self._past = {name: told[name] for name in ("kind", "replaced", "problems") if name in told}
            self._past |= {"workers": 0, "wanted": 0}
            self._close_workers()
            self.cluster = None

    def _close_workers(self) -> None:
        used: dict[str, float] = self.cluster.usage() if hasattr(self.cluster, "usage") else {}
        self._client = None
        self._workers.close()
        if any(used.values()):
            jobs = ", ".join(f"{job} {hours:.2f}" for job, hours in used.items())
            self.report.note(f"GPU-hours: {sum(used.values()):.2f} in {len(used)} jobs ({jobs})")

    def client(self, wanted: int) -> Any:
        """A client of the cluster, which is started if it isn't there: here with no more than `wanted` workers."""
        if self._client is None:
            from distributed import Client

            if self.cluster is None:
                settings = self.config.cluster
                shared = settings.kind == "slurm"  # scratch of local workers belongs on the local disk
                folder = self._folder if shared else None
                if not shared and settings.workers is not None:
                    settings = settings.model_copy(update={"workers": max(1, min(settings.workers, wanted))})
                self.cluster = self._workers.enter_context(
                    cluster.start(settings, folder=folder, uses_gpu=self._uses_gpu())
                )
            self._client = self._workers.enter_context(Client(self.cluster))
            link = cluster.workers_summary(self.cluster)["dashboard"]
            if link:
                self.report.note(f"dashboard: {link}")
        return self._client

    def _uses_gpu(self) -> bool:
        """Whether local workers are dealt out to GPUs."""
        from cluster.local import visible_gpus

        models = self.config.models
        device = models.options.get("device", "auto")
        if models.set != "auglift" or device == "cpu":
            return False
        return device == "cuda" or bool(visible_gpus())

    def capacity(self) -> int:
        """Workers that there may be soon, so that there is work for them when they come."""
        return cluster.capacity(self.cluster)

    def watch(self, dataset: str, total: int, done: int) -> Watch:
        """What `etl.execution.scheduling.run_partitions` calls every second."""
        return Watch(self, dataset, total, done)

    def publish(self, **facts: Any) -> None:
        """Set what `xycd status` shows."""
        self._controller.publish(self._facts | facts)

    def hold(self, reason: str) -> None:
        """Submit no jobs in place of those that end, as long as there is a reason."""
        if hasattr(self.cluster, "hold"):
            self.cluster.hold(reason)

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked the run to stop."""
        return self._told or self._interrupts.stopping

    def obey(self) -> bool:
        """Carry out what was asked for from other terminals; whether to stop.

        Raises
        ------
        cluster.errors.ClusterError
            When the cluster can't go on: SLURM refuses the jobs, say.
        """
        failure = getattr(self.cluster, "failure", None)
        if failure is not None:
            raise failure
        return self.heed()

    def heed(self) -> bool:
        """As `obey`, where no workers are needed.

        Raises
        ------
        KeyboardInterrupt
            When the run is to leave at once.
        """
        for command in self._controller.commands():
            if command.kind == "stop":
                self._told = True
                self._controller.acknowledge(command, "finishing what is running")
                if command.argument == "now":
                    raise KeyboardInterrupt
                continue
            if self.cluster is None:
                self._controller.acknowledge(command, "the run has no workers now", ok=False)
                continue
            try:
                answer = cluster.scale_to(self.cluster, command.argument)
            except ClusterError as error:
                self._controller.acknowledge(command, str(error), ok=False)
            else:
                self._controller.acknowledge(command, answer)
                self.report.note(f"scaled to {answer}")
        return self.stopping

    def leave_if_asked(self) -> None:
        """Between two steps of a run.

        Raises
        ------
        Stopped
            When somebody has asked the run to stop.
        """
        if self.heed():
            raise Stopped

    def workers(self) -> dict[str, Any]:
        """`cluster.workers_summary` of the cluster; of one that was let go, that it is, and what went wrong."""
        return cluster.workers_summary(self.cluster) if self.cluster is not None else self._past


class Heeding:
    """A reporter for annotate and merge: it also tells `xycd status`, and ends the stage when the run is to stop.

    Its `start` and `advance` raise `Stopped` then: what the stage has finished stays, what it was about is redone.
    """

    def __init__(self, report: Reporter, driver: Driver, dataset: str) -> None:
        self._report, self._driver, self._dataset = report, driver, dataset
        self._last = 0.0

    def start(self, title: str, total: int, done: int = 0, unit: str = "frames") -> None:
        """See `etl.stages.progress.Reporter`."""
        self._title, self._total, self._done, self._unit, self._failed = title, total, done, unit, 0
        self._rate, self._last = Rate(), 0.0
        self._report.start(title, total, done, unit)
        self._step()

    def advance(self, units: int, failed: int = 0, **facts: Any) -> None:
        """See `etl.stages.progress.Reporter`."""
        self._done += units
        self._failed += failed
        self._report.advance(units, failed, **facts)
        self._step()

    def finish(self, summary: str) -> None:
        """See `etl.stages.progress.Reporter`."""
        self._report.finish(summary)

    def note(self, text: str) -> None:
        """See `etl.stages.progress.Reporter`."""
        self._report.note(text)

    def _step(self) -> None:
        self._rate.note(self._done)
        now = time.monotonic()
        if now - self._last >= 1:
            self._last = now
            self._driver.publish(
                **progress(self._title, self._dataset, self._done, self._total, self._rate, self._unit),
                failed_rows=self._failed,
                stopping=self._driver.stopping,
                workers=self._driver.workers(),
            )
        self._driver.leave_if_asked()


def progress(stage: str, dataset: str, done: int, total: int, rate: Rate, unit: str = "frames") -> dict[str, Any]:
    """How far a stage is, for `xycd status`."""
    speed = rate.per_second()
    return {
        "stage": stage,
        "dataset": dataset,
        "unit": unit,
        "rows_done": done,
        "rows_total": total,
        "rate": round(speed, 2),
        "seconds_left": round((total - done) / speed) if speed else None,
    }


class Watch:
    """Publishes the progress of one dataset's estimate, and listens."""

    def __init__(self, driver: Driver, dataset: str, total: int, done: int) -> None:
        self.driver, self.dataset, self.total, self.first = driver, dataset, total, done
        self.rate = Rate()
        self._last = 0.0

    def __call__(self, outcome: Outcome, running: int) -> bool:
        """See `etl.execution.scheduling.run_partitions`."""
        now = time.monotonic()
        self.driver.hold("the run is stopping" if self.driver.stopping else "")
        if now - self._last >= 1:  # a full queue of finished partitions mustn't publish each of them
            self._last = now
            self.driver.publish(**self.facts(outcome, running))
        return self.driver.obey()

    def facts(self, outcome: Outcome, running: int) -> dict[str, Any]:
        """Progress in numbers, for `xycd status`."""
        new, workers = outcome.counts.total(), self.driver.workers()
        if new or workers.get("workers"):  # no rate is measured while jobs wait
            self.rate.note(new)
        return progress("estimate", self.dataset, self.first + new, self.total, self.rate) | {
            "failed_rows": new - outcome.counts["ok"],
            "failed_partitions": len(outcome.failed),
            "partitions_under_way": running,
            "waiting": round(outcome.pace.waiting, 3) if outcome.pace.model_s else None,
            "stopping": self.driver.stopping,
            "workers": workers,
        }


def pending_text(job: QueuedJob) -> str:
    """A detached driver that hasn't begun, in a line for people."""
    reason = job.reason.strip("()")
    why = f" ({reason})" if reason not in ("", "None") else ""
    return f"run          to be driven by job {job.id}, {job.state.lower()}{why}"


def status_text(found: Any) -> str:
    """`cluster.control.RunStatus` in a few lines for people."""
    from etl.stages.progress import duration

    facts: dict[str, Any] = found.status
    age = f"{duration(time.time() - found.started)} since it began"
    lines = [f"run          {found.state}, {age}, {found.driver}"]
    if "rows_total" in facts:
        share, unit = facts["rows_done"] / max(1, facts["rows_total"]), facts.get("unit", "frames")
        lines.append(f"stage        {facts['stage']} {facts['dataset']}{', stopping' if facts.get('stopping') else ''}")
        lines.append(f"{unit:<12} {facts['rows_done']:,} of {facts['rows_total']:,} ({share:.1%})")
        left = f", {duration(facts['seconds_left'])} left" if facts["seconds_left"] is not None else ""
        lines.append(f"rate         {facts['rate']:,} {unit}/s{left}")
        if facts.get("waiting") is not None:
            # More workers help where the models are busy; where they wait, a faster disk or more processors do.
            bound = "decode-bound" if facts["waiting"] > DECODE_BOUND else "model-bound"
            lines.append(f"pace         {bound}: the models wait for frames {facts['waiting']:.0%} of the time")
        partitions = f", {facts['failed_partitions']:,} partitions" if "failed_partitions" in facts else ""
        lines.append(f"failures     {facts['failed_rows']:,} {unit}{partitions}")
        workers = {k: v for k, v in facts["workers"].items() if v not in (None, [], {})}
        lines += [f"{name:<13}{_words(value)}" for name, value in workers.items()]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
