"""Preflight check: start one worker as the run would, and look for what usually fails later."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from cluster.node_check import Needs, check_node
from etl.config import Config
from etl.execution import steps
from etl.execution.driver import RUN_FOLDER
from etl.execution.job import DatasetJob
from etl.execution.plan import check_run, disk_needed
from etl.execution.resume import inspect_store
from etl.models.files import weights
from etl.stages.estimate import Estimator, decode_threads, estimate_rows, load_rows
from etl.stages.identity import build_planned_models
from etl.stages.progress import Silent, duration, size
from etl.store.partition import Partition
from etl.store.workspace import Workspace

FRAMES = 64  # frames of the trial: enough to measure a rate, and quick


@dataclass(frozen=True)
class Trial:
    """Trial of the first frames of a partition on the node; writes nothing."""

    partition: Partition
    estimator: Estimator

    def __call__(self) -> dict[str, float]:
        """Measure seconds to build the models, frames per second, and the number of decoding threads."""
        begun = time.perf_counter()
        models = build_planned_models(self.estimator.models, self.estimator.description)
        built = time.perf_counter()
        rows = load_rows(self.estimator.annotations / self.partition.annotation, self.partition)
        estimate_rows(rows.isel(frame=slice(2)), models, self.estimator)  # a network's first call is slow
        rows = rows.isel(frame=slice(FRAMES))
        warm = time.perf_counter()
        estimate_rows(rows, models, self.estimator)
        rate = rows.sizes["frame"] / (time.perf_counter() - warm)
        return {"models_s": built - begun, "frames_per_s": rate, "decode_threads": decode_threads(models)}


def check_worker(config: Config) -> tuple[str, list[str]]:
    """Check one worker.

    Parameters
    ----------
    config : Config
        Configuration of the run.

    Returns
    -------
    text : str
        Findings, one a line.
    problems : list of str
        Findings that would make the run fail.

    Raises
    ------
    etl.errors.XycdError
        When no worker starts, or the configuration can't run.
    """
    stages = ("annotate", "estimate", "merge")
    datasets = check_run(config, stages)
    with Workspace(config.workspace).writing():  # makes the folder, or raises
        config = steps.choose_runtimes(config, stages, Silent())
    jobs = [DatasetJob(name, config) for name in datasets]
    plans = [_todo(job) for job in jobs]
    trial = next((Trial(todo[0], job.estimator) for job, (_, todo) in zip(jobs, plans, strict=True) if todo), None)
    on_gpu = config.cluster.kind == "slurm" and config.cluster.slurm.gpus > 0
    needs = Needs(
        readable={
            **{f"dataset {job.dataset}": job.settings.root.resolve() for job in jobs},
            "weights": (config.models.cache or weights.cache_folder()).resolve(),
        },
        writable={"workspace": config.workspace.resolve()},
        free_bytes=sum(disk_needed(job, todo) for job, (_, todo) in zip(jobs, plans, strict=True)),
        free_inodes=sum(len(todo) for _, todo in plans) + 1000,
        gpu=on_gpu,
        torch_cuda=on_gpu and config.models.set == "auglift",
    )
    report = check_node(
        config.cluster,
        needs,
        folder=config.workspace.resolve() / RUN_FOLDER if config.cluster.kind == "slurm" else None,
        extras={} if trial is None else {"partition": trial},
    )
    return "\n".join(_node_lines(report) + _forecast_lines(report, config, plans)), report["problems"]


def _todo(job: DatasetJob) -> tuple[DatasetJob, list[Partition]]:
    """Partitions to run; none if the dataset isn't annotated yet."""
    annotated = [job.annotations / f"{s.key.path}.nc" for s in job.reader.sequences()]
    partitions = job.partitions([path for path in annotated if path.exists()])
    return job, inspect_store(partitions, job.store).todo


def _node_lines(report: dict[str, Any]) -> list[str]:
    """Describe the node in a few lines."""
    gpus = ", ".join(f"{g['name']} ({g['memory']}, driver {g['driver']})" for g in report["gpus"]) or "none"
    lines = [
        f"node         {report['host']}" + (f", job {report['job']}" if report["job"] else ""),
        f"worker       there after {report['first_worker_s']} s; reached the scheduler at {report['scheduler']}",
        f"cpus         {report['cpus']}, python {report['python']}",
        f"gpu          {gpus}",
        f"clock        {report['clock_skew_s']:+.1f} s",
    ]
    if report["torch"]:
        lines.append(f"torch        {report['torch']}")
    for name, path in report["paths"].items():
        space = f", {size(path['free_bytes'])} free" if "free_bytes" in path else ""
        inodes = f", {path['free_inodes']:,} inodes" if path.get("free_inodes") else ""
        lines.append(f"{name:<12} {'ok' if path['ok'] else path['error']}: {path['path']}{space}{inodes}")
    return lines


def _forecast_lines(
    report: dict[str, Any], config: Config, plans: list[tuple[DatasetJob, list[Partition]]]
) -> list[str]:
    """Forecast of the run from the measured rate."""
    answer = report["extras"].get("partition")
    frames = sum(p.frames for _, todo in plans for p in todo)
    if answer is None:
        return ["rate         not measured: nothing to do yet; run `xycd annotate` first, or all is done"]
    if "error" in answer:
        return [f"rate         not measured: {answer['error']}"]
    rate, threads = answer["frames_per_s"], int(answer["decode_threads"])
    hours = frames / rate / 3600  # on one worker
    jobs, unit, per_job, cost = config.cluster.workers or config.cluster.maximum or 1, "worker", 1, "worker-hours"
    share = 1.0
    if config.cluster.kind == "slurm":
        unit, per_job, gpus = "job", config.cluster.slurm.workers_per_job, config.cluster.slurm.gpus
        cost, share = ("GPU-hours", gpus / per_job) if gpus else (cost, share)
    partition = config.estimate.partition_frames / rate
    # With 20 partitions per job, start-up and the last, unfinished partition take less than a tenth of its time.
    walltime = math.ceil((20 * partition + answer["models_s"] + 300) / 900) * 900
    return [
        f"rate         {rate:.1f} frames/s a worker, with {threads} thread{'s' * (threads != 1)} to decode; "
        f"models ready after {answer['models_s']:.1f} s",
        f"outlook      {frames:,} frames are {share * hours:.1f} {cost}: {duration(hours * 3600 / (jobs * per_job))} "
        f"with {jobs} {unit}{'s' * (jobs != 1)}",
        f"walltime     {duration(walltime)} or more (20 partitions of {duration(partition)})",
    ]
