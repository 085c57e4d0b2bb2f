"""The whole run: raw dataset → annotations → partitions → features → training files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl.config import Config
from etl.execution import steps
from etl.execution.driver import Driver
from etl.execution.job import DatasetJob
from etl.execution.plan import check_run
from etl.execution.steps import DatasetRun
from etl.execution.summary import Summary
from etl.stages.progress import Reporter, Silent
from etl.store.disk import full_disk_errors
from etl.store.workspace import Workspace

STAGES = ("annotate", "estimate", "merge")


def run(
    config: Config,
    *,
    stages: Sequence[str] = STAGES,
    cluster: Any = None,
    report: Reporter | None = None,
    verify: bool = False,
) -> list[Summary]:
    """Run stages on every dataset of a configuration. A run resumes where an earlier one stopped.

    Parameters
    ----------
    config : Config
        Datasets, models, workspace and settings.
    stages : sequence of {"annotate", "estimate", "merge"}
        Stages to run. Estimate first annotates sequences without annotations.
    cluster : dask cluster, optional
        Workers to use, e.g. from `cluster.start`. By default, workers are started when they are needed.
    report : Reporter, optional
        Shows progress.
    verify : bool
        Open every finished file instead of trusting its receipt.

    Returns
    -------
    list of Summary
        One per dataset: counts, failures and files written. With several datasets, an error that ends one dataset's
        run is listed in its summary, and the others go on.

    Raises
    ------
    etl.errors.XycdError
        When no dataset can go on; before anything has run if possible. With a single dataset, every error that ends its
        run.
    """
    report = report or Silent()
    datasets = check_run(config, stages)
    with full_disk_errors(config.workspace), Workspace(config.workspace).writing():
        config = steps.choose_runtimes(config, stages, report)
        with Driver(config, report, cluster) as driver:
            runs = [DatasetRun(DatasetJob(name, config), tuple(stages), driver, report, verify) for name in datasets]
            return [run_dataset(each, only=len(runs) == 1, last=each is runs[-1]) for each in runs]


def run_dataset(run: DatasetRun, *, only: bool = True, last: bool = True) -> Summary:
    """Run stages on one dataset: the `only` one, or the `last` of several, after whose estimate workers can go."""
    with run.ending_alone(only=only):
        run.driver.raise_if_stopped()
        annotations = steps.annotate(run)  # raw dataset → annotations
        if run.stages == ("annotate",):
            return run.summary
        partitions = run.job.partitions(annotations)  # annotations → partitions of frames
        if "estimate" in run.stages:
            steps.estimate(run, partitions)  # images or video → features
        if "merge" in run.stages and not run.summary.stopped:
            run.driver.raise_if_stopped()
            if last:
                run.driver.dismiss()  # a merge needs no workers
            steps.merge(run, partitions)  # annotations and features → training files
    return run.summary
