"""Workers on a SLURM cluster: one job a worker, through dask-jobqueue, watched over by a keeper."""

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
from cluster.slurm.jobs import SECTION, Job, defaults, job_options
from cluster.slurm.keeper import Keeper
from cluster.slurm.keys import KeyFolder, clean_up_dead_runs, worker_security
from cluster.slurm.network import free_port, scheduler_address
from cluster.slurm.shared_folder import log_tail, shared_folder

FIRST_ANSWER = 120.0  # seconds that sbatch has for the first job
HEARTBEAT = 10.0  # seconds between two; after cluster.owner.STALE_AFTER the run counts as dead


class SlurmWorkers(SLURMCluster):
    """A SLURMCluster that keeps its jobs, its keys and its promises. Made by `cluster.start`.

    `scale(jobs=n)`, `adapt(minimum=, maximum=)`, `close()` are dask's; numbers count jobs where a job has one worker.
    """

    job_cls = Job
    keeper: Keeper

    def __init__(self, config: ClusterConfig, folder: Path) -> None:
        slurm = config.slurm
        self.config = config
        self.base = folder
        self.workers_per_job = slurm.workers_per_job
        self.run_name = f"xycd-{secrets.token_hex(4)}"
        self.leaving = False
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
        self.keeper = Keeper(
            self,
            startup=slurm.startup,
            grace=min(30.0, slurm.startup),
            give_up_after=slurm.give_up_after,
            interval=slurm.poll,
        )
        loop = self.loop.asyncio_loop  # type: ignore[union-attr]
        self._tasks = [asyncio.run_coroutine_threadsafe(task, loop) for task in (self._beat(), self.keeper.run())]

    @classmethod
    def begin(cls, config: ClusterConfig, *, folder: Path | None = None) -> SlurmWorkers:
        """Start a scheduler, submit one job, and the others once SLURM has taken it.

        Raises
        ------
        SubmissionRejected
            When SLURM refuses the first job.
        ClusterError
            When there is no SLURM here, or the folder can't be used.
        """
        if not shutil.which("sbatch"):
            raise ClusterError(
                "A SLURM cluster is used from a host that has sbatch.",
                f"none in PATH on {socket.gethostname()}",
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
        """Wait until SLURM has taken or refused a job.

        Raises
        ------
        SubmissionRejected
            With SLURM's words.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for job in list(self.workers.values()):
                if job.rejection is not None:
                    raise SubmissionRejected(
                        "SLURM takes the first job.",
                        job.rejection,
                        "Check partition, account, qos, gres and limits in the profile; `xycd plan` shows the script.",
                    )
                if job.job_id is not None:
                    return
            time.sleep(0.05)
        raise SubmissionRejected("sbatch answers.", f"nothing within {timeout:.0f} s", "Is slurmctld up? See `sinfo`.")

    def _scheduler_options(self) -> dict[str, Any]:
        slurm = self.config.slurm
        address = self.config.dashboard_address
        host = scheduler_address(slurm)  # one, never all of them
        options: dict[str, Any] = {"host": host, "dashboard": address is not None}
        options["dashboard_address"] = address or "127.0.0.1:0"
        if slurm.scheduler_ports:
            options["port"] = free_port(host, *port_range(slurm.scheduler_ports))
        return options

    def _get_worker_security(self, security: Security | None) -> Security | None:
        return worker_security(self.base, self.run_name) if security else None

    # What the keeper asks of a cluster.

    def asked(self) -> dict[str, str | None]:
        """See `cluster.slurm.keeper.Keepable`."""
        return {str(name): job.job_id for name, job in self.workers.items()}

    def connected(self) -> set[str]:
        """See `cluster.slurm.keeper.Keepable`."""
        names = {str(state.name) for state in self._states()}
        return names if self.workers_per_job == 1 else {name.rpartition("-")[0] for name in names}

    def submitted(self) -> set[str | None]:
        """See `cluster.slurm.keeper.Keepable`."""
        # `workers` gets the jobs of a round when all its sbatch calls are over; of a slow slurmctld that is minutes.
        return {job.job_id for job in list(self._created) if job.status != Status.closed}

    def last_words(self, job: str) -> str:
        """See `cluster.slurm.keeper.Keepable`."""
        return " / ".join(log_tail(self.base, job, 3)) or "nothing"

    async def queue(self) -> dict[str, commands.QueuedJob]:
        """See `cluster.slurm.keeper.Keepable`."""
        return await asyncio.to_thread(commands.list_jobs, *commands.jobs_named(self.run_name))

    async def ended(self) -> dict[str, commands.QueuedJob]:
        """See `cluster.slurm.keeper.Keepable`."""
        selection = commands.jobs_named(self.run_name)
        return await asyncio.to_thread(commands.list_jobs, *selection, states=commands.ENDED)

    async def replace(self, names: list[str]) -> None:
        """See `cluster.slurm.keeper.Keepable`."""
        async with self._lock:
            for name in names:
                job = self.workers.pop(name, None)
                if job is not None:
                    job.status = Status.closed
        await self._correct_state()
        for name in names:
            job = self.workers.get(name)
            if job is not None and job.rejection is not None:
                self.keeper.report(f"sbatch refuses: {job.rejection}")

    async def cancel(self, job: str) -> None:
        """See `cluster.slurm.keeper.Keepable`."""
        with contextlib.suppress(commands.CommandFailed):  # gone already, or tried again at the next look
            await commands.call(["scancel", job])

    async def _beat(self) -> None:
        """Say that the run lives, however long SLURM takes to answer: a run without a heartbeat is cleaned away."""
        while True:
            await asyncio.to_thread(self.keys.touch)  # the disk, too, may take its time
            await asyncio.sleep(HEARTBEAT)

    # What dask does otherwise.

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # SpecCluster would close the job of a lost worker after a while, even one submitted in its place meanwhile.
        Cluster._update_worker_status(self, op, msg)

    def scale(  # type: ignore[override]  # dask-jobqueue's signature
        self, n: int | None = None, jobs: int = 0, memory: Any = None, cores: Any = None
    ) -> Any:
        """Ask for `jobs` jobs, or `n` workers. Going down, jobs that wait go first, then idle ones."""
        if memory is not None or cores is not None:
            return super().scale(n, jobs, memory, cores)
        wanted = jobs if n is None else math.ceil(n / self.workers_per_job)
        if len(self.worker_spec) > wanted:
            for name in self._expendable()[: len(self.worker_spec) - wanted]:
                del self.worker_spec[name]
        return super().scale(wanted)

    def _expendable(self) -> list[str]:
        """Names, those whose loss costs least first."""
        busy: Counter[str] = Counter()
        for state in self._states():
            name = str(state.name)
            busy[name if self.workers_per_job == 1 else name.rpartition("-")[0]] += 1 + len(state.processing)
        names = enumerate(self.worker_spec)
        return [name for _, name in sorted(names, key=lambda pair: (busy[str(pair[1])], -pair[0]))]

    def _states(self) -> list[Any]:
        return list(self.scheduler.workers.values()) if self.scheduler is not None else []

    def adapt(self, *args: Any, **kwargs: Any) -> Any:
        """Let the number of jobs follow the work; `minimum` and `maximum` count workers, or give `minimum_jobs`."""
        if self.workers_per_job > 1:
            kwargs.setdefault("worker_key", job_of)
            for bound in ("minimum", "maximum"):
                if kwargs.get(f"{bound}_jobs") is not None:
                    kwargs[bound] = kwargs.pop(f"{bound}_jobs") * self.workers_per_job
        return super().adapt(*args, **kwargs)

    # What the user sees.

    @property
    def jobs(self) -> dict[str, commands.QueuedJob]:
        """Living jobs, as squeue listed them last."""
        return dict(self.keeper.listed)

    @property
    def failure(self) -> ClusterError | None:
        """Why no worker will come any more, if so; the driver raises it."""
        return self.keeper.failure

    def hold(self, reason: str) -> None:
        """Replace no job while there is a reason, such as a full disk on which no job can write its log; "" ends it."""
        self.keeper.on_hold = reason

    def summary(self) -> dict[str, Any]:
        """Jobs by state and node, and what went wrong, ready for JSON.

        Returns
        -------
        dict
            ``kind``; ``run`` (name of the jobs); ``jobs`` (count by state, lower case); ``nodes`` (running jobs by
            node); ``waiting`` (count by SLURM's reason); ``replaced``; ``problems`` (list of [epoch second, text]);
            ``gpu_hours``; ``queue_age_s`` (since squeue last answered).
        """
        jobs = self.jobs.values()
        seen = self.keeper.listed_at
        return {
            "kind": "slurm",
            "run": self.run_name,
            "jobs": dict(Counter(job.state.lower() for job in jobs)),
            "nodes": dict(Counter(job.nodes for job in jobs if job.state == "RUNNING")),
            "waiting": dict(Counter(job.reason for job in jobs if job.state == "PENDING")),
            "replaced": self.keeper.replaced,
            "problems": [list(problem) for problem in list(self.keeper.problems)],
            "gpu_hours": round(sum(self.usage().values()), 3),
            "queue_age_s": None if seen is None else round(time.monotonic() - seen, 1),
        }

    def usage(self) -> dict[str, float]:
        """GPU-hours of each job so far, in order of submission, as squeue last saw it running; CPU jobs count 0."""
        gpus = self.config.slurm.gpus
        return {job.job: job.seconds * gpus / 3600 for job in list(self.keeper.usage.values())}

    def close(self, timeout: float | None = None) -> Any:
        """Cancel all jobs, stop the scheduler, delete the keys; whatever fails on the way, the rest is done."""
        if self.status == Status.closed:
            return None
        for task in self._tasks:
            task.cancel()
        self.leaving = True
        _cancel_all(self.run_name, attempts=1)
        try:
            return super().close(60 if timeout is None else timeout)
        except TimeoutError:
            return None  # the jobs go by their name, below
        finally:
            try:
                _cancel_all(self.run_name)  # again: one may have been submitted meanwhile
            finally:
                self._undo.close()


def job_of(state: Any) -> str:
    """Name of the job that a worker (its scheduler's WorkerState) belongs to, where a job has several."""
    return str(state.name).rpartition("-")[0]


def _cancel_all(job_name: str, attempts: int = 3) -> None:
    """Cancel what is left of a run; without an answer from SLURM its jobs end by themselves, lacking a scheduler."""
    for attempt in range(attempts):
        try:
            commands.run(["scancel", *commands.jobs_named(job_name)], timeout=20)
            return
        except commands.CommandFailed:
            if attempt < attempts - 1:
                time.sleep(1)
