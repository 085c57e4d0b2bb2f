"""Workers on a SLURM cluster: jobs that dask-jobqueue submits and a supervisor replaces when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import shutil
import socket
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import dask
from distributed import Security
from distributed.core import Status
from distributed.deploy.cluster import Cluster

from cluster import files, settings
from cluster.config import ClusterConfig, port_range
from cluster.errors import ClusterError, SubmissionRejected
from cluster.slurm import commands
from cluster.slurm.jobqueue import SLURMCluster
from cluster.slurm.jobs import SECTION, WorkerJob, defaults, job_options
from cluster.slurm.keys import KeyFolder, clean_up_dead_runs, worker_security
from cluster.slurm.network import free_port, scheduler_address
from cluster.slurm.shared_folder import log_tail, shared_folder
from cluster.slurm.supervisor import Supervisor

FIRST_ANSWER = 120.0  # seconds until sbatch must have accepted or refused the first job
HEARTBEAT = 10.0  # seconds; without a heartbeat for cluster.driver_process.STALE_AFTER the run counts as dead


class SlurmWorkers(SLURMCluster):
    """A SLURMCluster with TLS keys of its own, whose lost jobs are replaced. Started by `cluster.start`.

    `scale(jobs=n)`, `adapt(minimum=, maximum=)` and `close()` are dask's.
    """

    job_cls = WorkerJob
    supervisor: Supervisor

    def __init__(self, config: ClusterConfig, folder: Path) -> None:
        slurm = config.slurm
        self.config = config
        self.folder = folder
        self.workers_per_job = slurm.workers_per_job
        self.run_name = f"xycd-{secrets.token_hex(4)}"
        self.closing = False
        self._undo = contextlib.ExitStack()
        self._tasks: list[Future[None]] = []
        files.private_folder(folder)
        files.private_folder(folder / "jobs")
        try:
            self.keys = KeyFolder(folder, self.run_name, tls=slurm.tls)
            self._undo.callback(self.keys.remove)
            pages = config.dashboard_address is not None
            dask_settings = settings.scheduler(config.worker_ttl, pages=pages) | defaults()
            self._undo.enter_context(dask.config.set(dask_settings))
            options = job_options(config, folder, self.run_name, None)
            del options["security"], options["config_name"]
            super().__init__(
                config_name=SECTION,
                name=self.run_name,
                security=self.keys.security,
                scheduler_options=self._scheduler_options(),
                silence_logs=logging.ERROR,
                **options,
            )
        except BaseException:
            self._undo.close()
            raise
        if self.workers_per_job > 1:
            self.new_spec["group"] = [f"-{i}" for i in range(self.workers_per_job)]
        self.supervisor = Supervisor(
            self,
            startup=slurm.startup,
            grace=min(30.0, slurm.startup),
            give_up_after=slurm.give_up_after,
            interval=slurm.poll,
        )
        loop = self.loop.asyncio_loop  # type: ignore[union-attr]
        self._tasks = [
            asyncio.run_coroutine_threadsafe(task, loop) for task in (self._renew_heartbeat(), self.supervisor.run())
        ]

    @classmethod
    def begin(cls, config: ClusterConfig, *, folder: Path | None = None) -> SlurmWorkers:
        """Start a scheduler and submit one job; submit the others once SLURM has accepted it.

        Raises
        ------
        SubmissionRejected
            When SLURM refuses the first job.
        ClusterError
            When there is no SLURM here, or the folder can't be used.
        """
        if not shutil.which("sbatch"):
            raise ClusterError(
                "A SLURM cluster needs a host that has sbatch.",
                f"no sbatch in PATH on {socket.gethostname()}",
                'Run on a login node, or set kind = "local".',
            )
        base = shared_folder(config, folder)
        clean_up_dead_runs(base, _cancel_all)
        cluster = cls(config, base)
        try:
            cluster.scale(jobs=1)
            cluster.await_first_answer()
            per_job = cluster.workers_per_job
            if config.maximum is not None:
                cluster.adapt(minimum=config.minimum * per_job, maximum=config.maximum * per_job)
            else:
                cluster.scale(jobs=config.workers or 1)
        except BaseException:
            cluster.close()
            raise
        return cluster

    def await_first_answer(self, timeout: float = FIRST_ANSWER) -> None:
        """Wait until SLURM has accepted or refused a job.

        Raises
        ------
        SubmissionRejected
            With SLURM's message.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for job in list(self.workers.values()):
                if job.rejection is not None:
                    raise SubmissionRejected(
                        "SLURM must accept the first job.",
                        job.rejection,
                        "Check partition, account, qos, gres, memory_per and limits in the profile; `xycd plan` shows "
                        "the script.",
                    )
                if job.job_id is not None:
                    return
            time.sleep(0.05)
        raise SubmissionRejected(
            "SLURM must answer sbatch.",
            f"no answer within {timeout:.0f} s",
            "Check with `sinfo` whether slurmctld is up.",
        )

    def _scheduler_options(self) -> dict[str, Any]:
        slurm = self.config.slurm
        address = self.config.dashboard_address
        host = scheduler_address(slurm)  # one address, never all
        options: dict[str, Any] = {"host": host, "dashboard": address is not None}
        options["dashboard_address"] = address or "127.0.0.1:0"
        if slurm.scheduler_ports:
            options["port"] = free_port(host, *port_range(slurm.scheduler_ports))
        return options

    def _get_worker_security(self, security: Security | None) -> Security | None:
        return worker_security(self.folder, self.run_name) if security else None

    # The interface of `cluster.slurm.supervisor.SupervisedCluster`.

    def requested_jobs(self) -> dict[str, str | None]:
        """Job id of each requested worker, by the worker's name; None where sbatch refused it."""
        return {str(name): job.job_id for name, job in self.workers.items()}

    def connected(self) -> set[str]:
        """Names of the requested workers that are connected."""
        return {self._job_name(state) for state in self._states()}

    def submitted(self) -> set[str | None]:
        """Ids of all wanted jobs that sbatch has accepted."""
        # `workers` gets the jobs of a round when all its sbatch calls have returned. With a slow slurmctld that takes
        # minutes.
        return {job.job_id for job in list(self._created) if job.status != Status.closed}

    def log_end(self, job: str) -> str:
        """Last lines of the job's log."""
        return " / ".join(log_tail(self.folder, job, 3)) or "nothing"

    async def queue(self) -> dict[str, commands.QueuedJob]:
        """Active jobs, as squeue lists them."""
        return await asyncio.to_thread(commands.list_jobs, *commands.jobs_named(self.run_name))

    async def ended(self) -> dict[str, commands.QueuedJob]:
        """Jobs that ended recently and that SLURM still remembers."""
        selection = commands.jobs_named(self.run_name)
        return await asyncio.to_thread(commands.list_jobs, *selection, states=commands.ENDED)

    async def replace(self, names: list[str]) -> None:
        """Forget the jobs of these workers and submit others."""
        async with self._lock:
            for name in names:
                job = self.workers.pop(name, None)
                if job is not None:
                    job.status = Status.closed
        await self._correct_state()
        for name in names:
            job = self.workers.get(name)
            if job is not None and job.rejection is not None:
                self.supervisor.report(f"sbatch refuses: {job.rejection}")

    async def cancel(self, job: str) -> None:
        """Cancel a job."""
        with contextlib.suppress(commands.CommandFailed):  # the job is gone already, or the next look cancels it
            await commands.call(["scancel", job])

    async def _renew_heartbeat(self) -> None:
        """Renew the heartbeat, however long SLURM takes to answer: a run without one is cleaned up as dead."""
        while True:
            await asyncio.to_thread(self.keys.touch)  # the disk may be slow, too
            await asyncio.sleep(HEARTBEAT)

    # Overrides of dask's methods.

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # SpecCluster would later close the job of a lost worker, even when a new job has replaced it.
        Cluster._update_worker_status(self, op, msg)

    def scale(  # type: ignore[override]  # dask-jobqueue's signature
        self, n: int | None = None, jobs: int = 0, memory: Any = None, cores: Any = None
    ) -> Any:
        """Request `jobs` jobs, or `n` workers. Scaling down removes waiting jobs first, then idle ones."""
        if memory is not None or cores is not None:
            return super().scale(n, jobs, memory, cores)
        wanted = jobs if n is None else math.ceil(n / self.workers_per_job)
        if len(self.worker_spec) > wanted:
            for name in self._expendable()[: len(self.worker_spec) - wanted]:
                del self.worker_spec[name]
        return super().scale(wanted)

    def _expendable(self) -> list[str]:
        """Names of the jobs in the order in which scaling down removes them."""
        busy: Counter[str] = Counter()
        for state in self._states():
            busy[self._job_name(state)] += 1 + len(state.processing)
        names = enumerate(self.worker_spec)
        return [name for _, name in sorted(names, key=lambda pair: (busy[str(pair[1])], -pair[0]))]

    def _states(self) -> list[Any]:
        return list(self.scheduler.workers.values()) if self.scheduler is not None else []

    def _job_name(self, state: Any) -> str:
        """Name of the job of a worker, given the scheduler's state of that worker."""
        return str(state.name) if self.workers_per_job == 1 else job_of(state)

    def adapt(self, *args: Any, **kwargs: Any) -> Any:
        """Let the number of workers follow the work; `minimum_jobs` and `maximum_jobs` count jobs instead."""
        if self.workers_per_job > 1:
            kwargs.setdefault("worker_key", job_of)
            for bound in ("minimum", "maximum"):
                if kwargs.get(f"{bound}_jobs") is not None:
                    kwargs[bound] = kwargs.pop(f"{bound}_jobs") * self.workers_per_job
        return super().adapt(*args, **kwargs)

    # Status for the user and the driver.

    @property
    def jobs(self) -> dict[str, commands.QueuedJob]:
        """Active jobs, as squeue last listed them."""
        return dict(self.supervisor.listed)

    @property
    def failure(self) -> ClusterError | None:
        """Error that the driver raises when no worker can be expected any more, else None."""
        return self.supervisor.failure

    def hold(self, reason: str) -> None:
        """Replace no lost job while there is a reason, such as a run that is stopping; "" ends it."""
        self.supervisor.on_hold = reason

    def summary(self) -> dict[str, Any]:
        """Jobs by state and node, and problems, JSON-ready.

        Returns
        -------
        dict
            ``kind``; ``run`` (name of the jobs); ``jobs`` (count by state, lower case); ``nodes`` (running jobs by
            node); ``waiting`` (count by SLURM's reason); ``replaced``; ``problems`` (list of [epoch second, text]);
            ``gpu_hours``; ``queue_age_s`` (seconds since squeue's last answer).
        """
        jobs = self.jobs.values()
        seen = self.supervisor.listed_at
        return {
            "kind": "slurm",
            "run": self.run_name,
            "jobs": dict(Counter(job.state.lower() for job in jobs)),
            "nodes": dict(Counter(job.nodes for job in jobs if job.state == "RUNNING")),
            "waiting": dict(Counter(job.reason for job in jobs if job.state == "PENDING")),
            "replaced": self.supervisor.replaced,
            "problems": [list(problem) for problem in list(self.supervisor.problems)],
            "gpu_hours": round(sum(self.usage().values()), 3),
            "queue_age_s": None if seen is None else round(time.monotonic() - seen, 1),
        }

    def usage(self) -> dict[str, float]:
        """GPU-hours of each job in order of submission, as squeue last reported its run time; CPU jobs count 0."""
        gpus = self.config.slurm.gpus
        return {job.job: job.seconds * gpus / 3600 for job in list(self.supervisor.usage.values())}

    def close(self, timeout: float | None = None) -> Any:
        """Cancel all jobs, stop the scheduler and delete the keys, even when one of the steps fails."""
        if self.status == Status.closed:
            return None
        for task in self._tasks:
            task.cancel()
        self.closing = True
        _cancel_all(self.run_name, attempts=1)
        try:
            return super().close(60 if timeout is None else timeout)
        except TimeoutError:
            return None  # the jobs are cancelled by name below
        finally:
            try:
                _cancel_all(self.run_name)  # again: a job may have been submitted in between
            finally:
                self._undo.close()


def job_of(state: Any) -> str:
    """Name of the job of a worker, given its WorkerState, where a job has several workers."""
    return str(state.name).rpartition("-")[0]


def _cancel_all(job_name: str, attempts: int = 3) -> None:
    """Cancel all jobs of a run. If SLURM does not answer, they end by themselves, without a scheduler."""
    for attempt in range(attempts):
        try:
            commands.run(["scancel", *commands.jobs_named(job_name)], timeout=20)
            return
        except commands.CommandFailed:
            if attempt < attempts - 1:
                time.sleep(1)
