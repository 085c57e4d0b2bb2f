"""The driver's surroundings: workers when there is work, signals, and the way in from other terminals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import cluster
from cluster.control import Controller
from cluster.errors import ClusterError
from cluster.signals import Interrupts
from etl.config import Config
from etl.progress import Reporter

if TYPE_CHECKING:
    from etl.schedule import Outcome

RUN_FOLDER = "run"
DECODE_BOUND = 0.2  # share of their time in which the models of such a run wait for frames


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
        self.stopping = False
        self._client: Any = None
        self._stack = contextlib.ExitStack()
        self._controller = Controller(config.workspace.resolve() / RUN_FOLDER)
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._stack.enter_context(self._controller)
        self._interrupts = self._stack.enter_context(
            Interrupts(lambda: self.report.note("Finishing what is running; Ctrl-C again leaves at once."))
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        used: dict[str, float] = self.cluster.usage() if hasattr(self.cluster, "usage") else {}
        self._stack.close()
        if any(used.values()):
            jobs = ", ".join(f"{job} {hours:.2f}" for job, hours in used.items())
            self.report.note(f"GPU-hours: {sum(used.values()):.2f} in {len(used)} jobs ({jobs})")

    def client(self, wanted: int) -> Any:
        """A client of the cluster; at first use starts it, on this machine with no more than `wanted` workers."""
        if self._client is None:
            from distributed import Client

            if self.cluster is None:
                settings = self.config.cluster
                shared = settings.kind == "slurm"  # scratch of local workers belongs on the local disk
                folder = self.config.workspace.resolve() / RUN_FOLDER if shared else None
                if not shared and settings.workers is not None:
                    settings = settings.model_copy(update={"workers": max(1, min(settings.workers, wanted))})
                self.cluster = self._stack.enter_context(
                    cluster.start(settings, folder=folder, uses_gpu=self._uses_gpu())
                )
            self._client = self._stack.enter_context(Client(self.cluster))
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
        summary = cluster.workers_summary(self.cluster)
        most = int(summary["adaptive"].split(":")[1]) if summary["adaptive"] else 0
        return max(int(summary["workers"]), int(summary["wanted"]), most)

    def watch(self, dataset: str, total: int, done: int) -> Watch:
        """What `etl.schedule.run_partitions` calls every second."""
        return Watch(self, dataset, total, done)

    def publish(self, **facts: Any) -> None:
        """Set what `xycd status` shows."""
        self._controller.publish(facts)

    def patiently(self, write: Callable[[], None]) -> None:
        """Write what a stage begins with; while there is no space, wait, and go on listening.

        Raises
        ------
        etl.errors.SpaceError
            When there still is none after `cluster.wait_for_space`, or a stop was asked for.
        """
        from etl.space import once_there_is_space

        def say(kind: str, reason: str = "", **_: Any) -> None:
            self.report.note(f"waiting for space: {reason}" if kind == "waiting" else "there is space again")
            self.publish(space=f"waiting for space: {reason}" if kind == "waiting" else None)

        def sleep(seconds: float) -> bool:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                if self.obey():
                    return True
                time.sleep(min(1.0, left))
            return False

        once_there_is_space(write, self.config.cluster.wait_for_space, say=say, sleep=sleep)

    def hold(self, reason: str) -> None:
        """Submit no jobs in place of those that end, as long as there is a reason: a full disk fails them all."""
        if hasattr(self.cluster, "hold"):
            self.cluster.hold(reason)

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
        for command in self._controller.commands():
            if command.kind == "stop":
                self.stopping = True
                self._controller.acknowledge(command, "finishing what is running")
                if command.argument == "now":
                    raise KeyboardInterrupt
                continue
            if self.cluster is None:
                self._controller.acknowledge(command, "the run has no workers yet", ok=False)
                continue
            try:
                answer = cluster.scale_to(self.cluster, command.argument)
            except ClusterError as error:
                self._controller.acknowledge(command, str(error), ok=False)
            else:
                self._controller.acknowledge(command, answer)
                self.report.note(f"scaled to {answer}")
        return self.stopping or self._interrupts.stopping


class Watch:
    """Publishes the progress of one dataset's estimate, and listens."""

    def __init__(self, driver: Driver, dataset: str, total: int, done: int) -> None:
        self.driver, self.dataset, self.total, self.first = driver, dataset, total, done
        self.begun = time.monotonic()
        self._last = 0.0

    def __call__(self, outcome: Outcome, running: int) -> bool:
        """See `etl.schedule.run_partitions`."""
        now = time.monotonic()
        self.driver.hold("the run waits for space" if outcome.waiting.text() else "")
        if now - self._last >= 1:  # a full queue of finished partitions mustn't publish each of them
            self._last = now
            self.driver.publish(**self.facts(outcome, running))
        return self.driver.obey()

    def facts(self, outcome: Outcome, running: int) -> dict[str, Any]:
        """Progress in numbers, for `xycd status`."""
        new = outcome.counts.total()
        seconds = time.monotonic() - self.begun
        rate = new / seconds
        left = self.total - self.first - new
        return {
            "stage": "estimate",
            "dataset": self.dataset,
            "rows_done": self.first + new,
            "rows_total": self.total,
            "rate": round(rate, 2),
            "seconds_left": round(left / rate) if rate else None,
            "failed_rows": new - outcome.counts["ok"],
            "failed_partitions": len(outcome.failed),
            "partitions_under_way": running,
            "waiting": round(outcome.pace.waiting, 3) if outcome.pace.model_s else None,
            "stopping": self.driver.stopping,
            "space": outcome.waiting.text() or None,
            "unstaged": [len(outcome.unstaged), *list(outcome.unstaged.values())[-1:]] if outcome.unstaged else None,
            "workers": cluster.workers_summary(self.driver.cluster),
        }


def status_text(found: Any) -> str:
    """`cluster.control.RunStatus` in a few lines for people."""
    from etl.progress import duration

    facts: dict[str, Any] = found.status
    age = f"{duration(time.time() - found.started)} since it began"
    lines = [f"run          {found.state}, {age}, {found.owner}"]
    if facts.get("space"):
        lines.append(f"space        {facts['space']}")
    if "rows_total" in facts:
        share = facts["rows_done"] / max(1, facts["rows_total"])
        lines.append(f"stage        {facts['stage']} {facts['dataset']}")
        lines.append(f"frames       {facts['rows_done']:,} of {facts['rows_total']:,} ({share:.1%})")
        left = f", {duration(facts['seconds_left'])} left" if facts["seconds_left"] is not None else ""
        lines.append(f"rate         {facts['rate']:,} frames/s{left}")
        if facts.get("waiting") is not None:
            # More workers help where the models are busy; where they wait, a faster disk or more processors do.
            bound = "decode-bound" if facts["waiting"] > DECODE_BOUND else "model-bound"
            lines.append(f"pace         {bound}: the models wait for frames {facts['waiting']:.0%} of the time")
        lines.append(f"failures     {facts['failed_rows']:,} frames, {facts['failed_partitions']:,} partitions")
        if facts.get("unstaged"):
            count, reason = facts["unstaged"]
            lines.append(f"staging      {count:,} videos read where they lie: {reason}")
        workers = {k: v for k, v in facts["workers"].items() if v not in (None, [], {})}
        lines += [f"{name:<13}{_words(value)}" for name, value in workers.items()]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
