"""The stages of a run on one dataset: what `etl.pipeline` calls, with their checks, notes and records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.errors import ClusterError
from etl import __version__
from etl.alignment import judge
from etl.config import Config
from etl.errors import SpaceError, XycdError
from etl.execution.driver import Driver, Stopped
from etl.execution.job import DatasetJob
from etl.execution.plan import disk_needed
from etl.execution.progress import Progress
from etl.execution.resume import StoreState, inspect_store, reconcile_store, remove_temporary_files
from etl.execution.scheduling import run_partitions
from etl.execution.summary import Summary
from etl.execution.training_file import TrainingFile
from etl.models import registry
from etl.stages import annotate as annotate_stage
from etl.stages import merge as merge_stage
from etl.stages.join import SequenceFiles
from etl.stages.progress import Reporter, size
from etl.store.disk import free_bytes
from etl.store.partition import Partition
from etl.store.workspace import Current
from schemas.keys import SequenceKey


@dataclass(frozen=True)
class DatasetRun:
    """A run of some stages on one dataset.

    Parameters
    ----------
    job : DatasetJob
        The dataset, its configuration and its files.
    stages : tuple of {"annotate", "estimate", "merge"}
        The stages to run.
    driver : Driver
        Workers, status and stop.
    report : Reporter
        Shows progress and notes.
    verify : bool
        Open finished files instead of trusting their receipts.
    """

    job: DatasetJob
    stages: tuple[str, ...]
    driver: Driver
    report: Reporter
    verify: bool = False

    @cached_property
    def progress(self) -> Progress:
        """Progress of the stages."""
        return Progress(self.report, self.driver, self.job.dataset)

    @cached_property
    def summary(self) -> Summary:
        """Result of the run so far."""
        return Summary(self.job.dataset)

    @contextlib.contextmanager
    def ending_alone(self, *, only: bool) -> Iterator[None]:
        """Write a stop, or an error that concerns this dataset, to the summary, so that other datasets go on.

        Raises
        ------
        etl.errors.XycdError
            When no dataset can go on: a full disk, no workers. With `only`, every error, as there is no other dataset.
        """
        try:
            yield
        except Stopped:
            self.summary.stopped = True
        except (SpaceError, ClusterError):
            raise
        except XycdError as error:
            if only:
                raise
            self.summary.failed.append(str(error))
            self.report.note(f"{self.job.dataset} can't be finished: {error}")


def choose_runtimes(config: Config, stages: Sequence[str], report: Reporter) -> Config:
    """Return the configuration with the runtime of each network; see `etl.models.registry.choose_runtimes`."""
    if "estimate" not in stages and "merge" not in stages:
        return config
    config, notes = registry.choose_runtimes(config, compute="estimate" in stages)
    for note in notes:
        report.note(note)
    return config


def annotate(run: DatasetRun) -> list[Path]:
    """Bring the annotations up to date, if annotate or estimate runs; return the sequences' annotation files."""
    job, summary = run.job, run.summary
    if "annotate" in run.stages or "estimate" in run.stages:
        local = job.config.cluster.kind == "local"  # on SLURM, `workers` is the number of jobs
        workers = job.config.cluster.workers if local else None
        manifest = annotate_stage.annotate(job.reader, job.annotations, workers=workers, progress=run.progress)
        for name, reason in sorted(manifest.failures.items()):
            summary.failed.append(f"{SequenceKey.from_path(job.dataset, name)}: {reason}")
        job.workspace.set_current(job.dataset, Current(job.annotations_key, _features_to_query(run)))
    files = job.annotation_files()
    summary.sequences = len(files)
    if "annotate" in run.stages or "merge" in run.stages:
        exports = annotate_stage.export_splits(
            job.annotations, files, job.workspace.training, job.dataset, complete=job.reader.takes_all()
        )
        if run.stages == ("annotate",):
            summary.outputs += exports
    return files


def _features_to_query(run: DatasetRun) -> str | None:
    """Key of the features that queries open: this run's, or the known ones of the same annotations."""
    job = run.job
    if "estimate" in run.stages:
        return job.store.folder.name
    known = job.workspace.current(job.dataset) if job.dataset in job.workspace.datasets() else None
    return known.features if known and known.annotations == job.annotations_key else None


def estimate(run: DatasetRun, partitions: list[Partition]) -> None:
    """Run the partitions that aren't finished."""
    job, store, summary = run.job, run.job.store, run.summary
    store.create(job.stage)
    job.table.save()
    store.record_run(
        {
            "root": str(job.settings.root.resolve()),
            "models": job.config.models.model_dump(mode="json"),
            "estimate": job.estimate_settings.model_dump(mode="json"),
        }
    )
    state = inspect_store(partitions, store, verify=run.verify, maps=job.maps_ending)
    reconcile_store(state, partitions, store)
    store.clear_failures(partitions)
    for text in state.damaged:
        run.report.note(f"set aside and to run again: {text}")
    total = sum(p.rows for p in partitions)
    done = total - sum(p.rows for p in state.todo)
    run.report.start("estimate", total, done)
    if state.todo:
        _check_space(job, state)
        client = run.driver.client(len(state.todo))
        run.progress.begin("estimate", total, done)
        outcome = run_partitions(
            client,
            state.todo,
            job.estimator,
            store,
            run.report,
            tick=run.progress.check_in,
            capacity=run.driver.capacity,
        )
        remove_temporary_files(state.todo, store)
        failed = [(p, outcome.failed[p.id]) for p in state.todo if p.id in outcome.failed]
        summary.failed += [f"{p.key} frames {p.first}-{p.last}: {reason}" for p, reason in failed]
        summary.stopped = outcome.stopped
    receipts = store.receipts()
    finished = [receipts[p.id] for p in partitions if p.id in receipts]
    for receipt in finished:
        summary.rows.update(receipt.counts)
    summary.rows["not_run"] += total - sum(r.rows for r in finished)
    summary.rows = +summary.rows  # drops statuses without rows
    summary.kept = len(state.finished)
    summary.ran = len(finished) - summary.kept
    run.report.finish(f"{summary.ran} partitions run, {summary.kept} finished earlier")


def _check_space(job: DatasetJob, state: StoreState) -> None:
    needed, free = disk_needed(job, state.todo, state.unmapped), free_bytes(job.config.workspace)
    if needed > free:
        raise SpaceError(
            "The features must fit on the disk.",
            f"about {size(needed)} needed, {size(free)} free at {job.config.workspace}",
            "Free some space or choose another --workspace; the same command then goes on.",
        )


def merge(run: DatasetRun, partitions: list[Partition]) -> None:
    """Write the training files of every split that has ground truth, unless they are up to date."""
    job, report, settings = run.job, run.progress, run.job.config.merge
    verify = run.verify and "estimate" not in run.stages  # estimate has just opened all files
    state = inspect_store(partitions, job.store, verify=verify)
    for text in state.damaged:
        report.note(f"damaged, to be estimated again: {text}")
    splits = job.merge_inputs(partitions, state)
    if not splits:
        report.note(f"{job.dataset} has no ground truth: its features are the result; see `xycd query`.")
        return
    job.workspace.training.mkdir(exist_ok=True)
    receipts = {job.store.folder / receipt.path: receipt for receipt in state.finished.values()}
    decides = {"xycd": __version__, "stage": job.stage, "merge": settings.model_dump(mode="json", exclude={"workers"})}
    outputs = {
        split: TrainingFile.of(job.training_path(split), pairs, receipts, decides)
        for split, pairs in sorted(splits.items())
    }
    keys = {"annotations": job.annotations_key, "features": job.store.folder.name}
    verdicts = judge.read_verdicts(job.workspace.root / job.dataset / judge.FILE, **keys)
    judged = settings.judge == "off" or bool(verdicts)
    if judged and all(output.is_current() for output in outputs.values()):
        run.summary.unchanged = True
        run.summary.outputs += [output.path for output in outputs.values()]
        report.note(f"{job.dataset}: the training files are up to date")
        if settings.judge != "off":
            _report_verdicts(verdicts, report)
        return
    _judge([pair for pairs in splits.values() for pair in pairs], job, report)
    for split, output in outputs.items():
        metadata = {"xycd": __version__, "dataset": job.dataset, "split": split, "stage": job.stage}
        metadata |= annotate_stage.describe_joints(job.annotations, [p.annotation for p in output.pairs], job.dataset)
        merge_stage.merge(
            output.pairs,
            output.path,
            format=settings.format,
            part=settings.part,
            casp_extremes=settings.casp_extremes,
            compat=settings.compat,
            allow_missing=settings.allow_missing,
            metadata=metadata,
            workers=settings.workers,
            progress=report,
        )
        output.record()
        run.summary.outputs.append(output.path)


def _judge(pairs: Sequence[SequenceFiles], job: DatasetJob, report: Reporter) -> None:
    """Check the alignment of annotations and features, record the verdicts, and report or refuse misfits."""
    path = job.workspace.root / job.dataset / judge.FILE
    if job.config.merge.judge == "off":
        path.unlink(missing_ok=True)  # it describes other features
        return
    verdicts = judge.judge_files(pairs)
    judge.write_verdicts(verdicts, path, annotations=job.annotations_key, features=job.store.folder.name)
    if job.config.merge.judge == "refuse":
        judge.refuse(verdicts)
    _report_verdicts(verdicts, report)


def _report_verdicts(verdicts: Sequence[judge.SequenceVerdict], report: Reporter) -> None:
    for note in judge.notes(verdicts):
        report.note(note)
