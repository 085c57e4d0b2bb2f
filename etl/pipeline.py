"""The whole way of the data: raw dataset → annotations → partitions → features → training files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl.config import Config
from etl.execution import steps
from etl.execution.driver import Driver, Heeding
from etl.execution.job import Job
from etl.execution.steps import Summary
from etl.stages.progress import Reporter, Silent
from etl.store.workspace import Workspace, full_disk_errors

STAGES = ("annotate", "estimate", "merge")


def run(
    config: Config,
    *,
    stages: Sequence[str] = STAGES,
    cluster: Any = None,
    report: Reporter | None = None,
    verify: bool = False,
) -> list[Summary]:
    """Run stages on every dataset of a configuration, going on where an earlier run stopped.

    Parameters
    ----------
    config : Config
        What to do.
    stages : sequence of {"annotate", "estimate", "merge"}
        Which stages. Estimate annotates what isn't annotated yet.
    cluster : dask cluster, optional
        Workers to use, e.g. from `cluster.start`; without it, workers are started when there is work.
    report : Reporter, optional
        Shows progress.
    verify : bool
        Open every finished file instead of trusting its receipt.

    Returns
    -------
    list of Summary
        One a dataset: what was done, what failed, what was written. Of several datasets, one that can't be finished
        costs the others nothing: the error is among what failed.

    Raises
    ------
    etl.errors.XycdError
        When nothing can be done: before anything has run where that can be known. So does the error of a dataset that
        is the only one.
    """
    report = report or Silent()
    datasets = steps.check(config, stages)
    with full_disk_errors(config.workspace), Workspace(config.workspace).writing():
        config = steps.choose_runtimes(config, stages, report)
        with Driver(config, report, cluster) as driver:
            jobs, alone = [Job(name, config) for name in datasets], len(datasets) == 1
            return [
                run_job(job, stages, driver, report, verify=verify, alone=alone, last=job is jobs[-1]) for job in jobs
            ]


def run_job(
    job: Job,
    stages: Sequence[str],
    driver: Driver,
    report: Reporter,
    *,
    verify: bool = False,
    alone: bool = True,
    last: bool = True,
) -> Summary:
    """Run stages on one dataset.

    Unless it is `alone`, an error that costs this one only is in its summary. After the `last` one's estimate, workers
    may go.
    """
    summary, heeding = Summary(job.dataset), Heeding(report, driver, job.dataset)
    with steps.costing_itself(summary, report, alone=alone):
        driver.leave_if_asked()
        annotations = steps.annotate(job, stages, summary, heeding)  # raw dataset → annotations
        partitions = steps.cut(job, stages, annotations)  # annotations → partitions of frames
        if "estimate" in stages:
            steps.estimate(job, partitions, driver, summary, report, verify=verify)  # images or video → features
        if "merge" in stages and not summary.stopped:
            verify = verify and "estimate" not in stages  # which has just opened them all
            driver.leave_if_asked()
            if last:
                driver.dismiss()
            steps.merge(job, partitions, summary, heeding, verify=verify)  # both → training files
    return summary
