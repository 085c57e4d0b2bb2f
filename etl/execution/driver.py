"""The driver: starts and closes workers, and receives signals and commands from other terminals."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Self

import cluster
from cluster.control import Controller
from cluster.errors import ClusterError
from cluster.signals import Interrupts
from cluster.slurm.shared_folder import shared_folder
from etl.config import Config
from etl.stages.progress import Reporter

RUN_FOLDER = "run"


class Stopped(Exception):
    """The user stopped the run; the next run does what is left."""


class Driver:
    """Starts the configured cluster when it is first used, and closes it at the end.

    While it is open, `xycd status`, `scale` and `stop` reach the run through `<workspace>/run`. Ctrl-C lets the
    running partitions finish. A closed terminal doesn't end the run.

    Parameters
    ----------
    config : Config
        Its section `cluster` describes the workers.
    report : Reporter
        Shows notes.
    given : dask cluster, optional
        A running cluster to use instead; it stays open.
    """

    def __init__(self, config: Config, report: Reporter, given: Any = None) -> None:
        self.config = config
        self.report = report
        self.cluster: Any = given
        self._client: Any = None
        self._given = given is not None
        self._stack = contextlib.ExitStack()
        self._workers = contextlib.ExitStack()  # the client, and the cluster if it was started here
        self._closed_status: dict[str, Any] = {}  # status of a cluster that was closed
        self._folder = config.workspace.resolve() / RUN_FOLDER
        self._controller = Controller(self._folder)
        self._interrupts = Interrupts(
            lambda: self.report.note("Finishing what is running; Ctrl-C again leaves at once.")
        )
        self._stop_requested = False  # by another terminal
        self._problems_shown = 0
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
        """Close the workers that the driver started, so that a merge blocks no GPUs. `client` starts them again."""
        if not self._given and self.cluster is not None:
            status = self.workers()
            self._closed_status = {name: status[name] for name in ("kind", "replaced", "problems") if name in status}
            self._closed_status |= {"workers": 0, "wanted": 0}
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
        """Return a client of the cluster. Start the cluster if needed, with at most `wanted` workers if it is local."""
        if self._client is None:
            from distributed import Client

            if self.cluster is None:
                settings = self.config.cluster
                shared = settings.kind == "slurm"  # local workers keep their scratch files on the local disk
                folder = self._folder if shared else None
                if not shared and settings.workers is not None:
                    settings = settings.model_copy(update={"workers": max(1, min(settings.workers, wanted))})
                self.cluster = self._workers.enter_context(
                    cluster.start(settings, folder=folder, uses_gpu=self._uses_gpu())
                )
                if shortage := cluster.shortage_of_cores(self.cluster):
                    self.report.note(shortage)
            self._client = self._workers.enter_context(Client(self.cluster))
            link = cluster.workers_summary(self.cluster)["dashboard"]
            if link:
                self.report.note(f"dashboard: {link}")
        return self._client

    def _uses_gpu(self) -> bool:
        """Whether each local worker needs a GPU of its own."""
        from cluster.local import visible_gpus

        models = self.config.models
        device = models.options.get("device", "auto")
        if models.set != "auglift" or device == "cpu":
            return False
        return device == "cuda" or bool(visible_gpus())

    def capacity(self) -> int:
        """Number of workers that may soon be there, so that work is ready when they connect."""
        return cluster.capacity(self.cluster)

    def publish(self, **facts: Any) -> None:
        """Set the facts that `xycd status` shows."""
        self._controller.publish(self._facts | facts)

    @property
    def stopping(self) -> bool:
        """Whether the user has stopped the run."""
        return self._stop_requested or self._interrupts.stopping

    def poll(self) -> bool:
        """Carry out commands from other terminals, and check the cluster; return whether to stop.

        Raises
        ------
        cluster.errors.ClusterError
            When the cluster can't go on, for example because SLURM refuses the jobs.
        """
        failure = getattr(self.cluster, "failure", None)
        for _, problem in getattr(self.cluster, "problems", [])[self._problems_shown :]:
            self._problems_shown += 1
            self.report.note(problem)
        if failure is not None:
            raise failure
        stopping = self.handle_commands()
        if stopping and hasattr(self.cluster, "hold"):
            self.cluster.hold("the run is stopping")  # a job that ends now needs no replacement
        return stopping

    def handle_commands(self) -> bool:
        """Carry out commands from other terminals; return whether to stop.

        Raises
        ------
        KeyboardInterrupt
            When the run must end at once.
        """
        for command in self._controller.commands():
            if command.kind == "stop":
                self._stop_requested = True
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

    def raise_if_stopped(self) -> None:
        """Carry out commands from other terminals.

        Raises
        ------
        Stopped
            When the user has stopped the run.
        """
        if self.handle_commands():
            raise Stopped

    def workers(self) -> dict[str, Any]:
        """`cluster.workers_summary` of the cluster. After `dismiss`: no workers, and the problems so far."""
        return cluster.workers_summary(self.cluster) if self.cluster is not None else self._closed_status
