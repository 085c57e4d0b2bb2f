"""The steps that `etl.pipeline` names: each stage on one dataset, with its reports and its bookkeeping."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import ClusterError
from etl import __version__
from etl.alignment import judge
from etl.config import Config
from etl.errors import ConfigError, SpaceError, XycdError
from etl.execution import scheduling as schedule
from etl.execution.driver import Driver, Stopped
from etl.execution.job import Job
from etl.execution.outputs import Output
from etl.execution.resume import Resume, look_for_finished, settle, sweep
from etl.models import registry
from etl.stages import annotate as annotate_stage
from etl.stages import merge as merge_stage
from etl.stages.blocks.chain import feature_names
from etl.stages.files import maps
from etl.stages.identity import describe_models
from etl.stages.join import SequenceFiles
from etl.stages.progress import Reporter, duration, size
from etl.store.partition import Partition
from etl.store.workspace import Current, FeatureStore, free_bytes
from schemas.keys import SequenceKey


@dataclass
class Summary:
    """What a run did with one dataset.

    Parameters
    ----------
    dataset : str
        Its name.
    sequences : int
        Annotated sequences that took part.
    rows : Counter
        Rows by status, all runs together.
    ran, kept : int
        Partitions of this run, and of earlier ones.
    failed : list of str
        Sequences and partitions that failed as a whole, and what kept the dataset from being finished.
    outputs : list of Path
        Training files.
    unchanged : bool
        Whether they are those of an earlier run.
    stopped : bool
        Whether somebody asked the run to stop before the end.
    begun : float
        When this run began, by the monotonic clock.
    """

    dataset: str
    sequences: int = 0
    rows: collections.Counter[str] = field(default_factory=collections.Counter)
    ran: int = 0
    kept: int = 0
    failed: list[str] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    unchanged: bool = False
    stopped: bool = False
    begun: float = field(default_factory=time.monotonic)

    @property
    def troubled(self) -> bool:
        """Whether anything failed, be it a single frame.

        A frame in which nobody was found is a finding, no fault; what a stopped run left is still to do.
        """
        fine = {"ok", "no_person", *(("not_run",) if self.stopped else ())}
        return bool(self.failed) or not fine.issuperset(+self.rows)

    def text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.dataset}: {self.sequences:,} sequences"]
        if self.rows:
            bad = {name: n for name, n in sorted(self.rows.items()) if name != "ok"}
            words = ", ".join(f"{n:,} {name}" for name, n in bad.items()) or "no failures"
            lines.append(f"  frames: {self.rows.total():,}, of which {self.rows['ok']:,} ok ({words})")
        if self.ran or self.kept:
            what = f"{self.ran:,} run" if self.ran else "nothing to do"
            lines.append(f"  partitions: {what}, {self.kept:,} finished earlier")
        lines += [f"  failed: {text}" for text in self.failed[:5]]
        if len(self.failed) > 5:
            lines.append(f"  … and {len(self.failed) - 5} more")
        wrote = "up to date:" if self.unchanged else "wrote"
        lines += [f"  {wrote} {path} ({size(_bytes(path))})" for path in self.outputs]
        if self.stopped:
            lines.append("  stopped before the end; the same command goes on from here")
        lines.append(f"  {duration(time.monotonic() - self.begun)}")
        return "\n".join(lines)


def check(config: Config, stages: Sequence[str]) -> list[str]:
    """Find errors of configuration, and datasets of no known layout, before anything runs; the datasets to work on.

    Raises
    ------
    etl.errors.XycdError
        Naming what is wrong.
    """
    datasets = config.datasets.selected()
    if not datasets:
        raise ConfigError(
            "A run works on at least one dataset.", "none configured", "Name it: xycd run h36m --root /data/h36m"
        )
    for name, settings in datasets.items():
        if not settings.root.is_dir():
            raise ConfigError(
                "The dataset's root must be a folder.", f"no folder {settings.root} ({name})", "Check --root."
            )
    if "estimate" in stages or "merge" in stages:
        registry.check(config.models.set, cache=config.models.cache, **config.models.options)
    if "estimate" in stages:
        maps.check(config.estimate.embeddings, config.models)
    for name in datasets:
        Job(name, config).reader.sequences()  # a listing, which reads no poses
    return list(datasets)


@contextlib.contextmanager
def costing_itself(summary: Summary, report: Reporter, *, alone: bool) -> Iterator[None]:
    """Keep an error that is about one dataset from costing the others: it goes into the dataset's summary.

    So does that somebody stopped the run.

    Raises
    ------
    etl.errors.XycdError
        What no dataset can go on with: a full disk, a cluster that gives no workers; and everything if it is `alone`.
    """
    try:
        yield
    except Stopped:
        summary.stopped = True
    except (SpaceError, ClusterError):
        raise
    except XycdError as error:
        if alone:
            raise
        summary.failed.append(str(error))
        report.note(f"{summary.dataset} can't be finished: {error}")


def choose_runtimes(config: Config, stages: Sequence[str], report: Reporter) -> Config:
    """The configuration with the runtime of each network named; see `etl.models.registry.choose_runtimes`."""
    if "estimate" not in stages and "merge" not in stages:
        return config
    config, notes = registry.choose_runtimes(config, compute="estimate" in stages)
    for note in notes:
        report.note(note)
    return config


def annotate(job: Job, stages: Sequence[str], summary: Summary, report: Reporter) -> list[Path]:
    """Bring the annotations up to date; the annotation files of the sequences asked for."""
    if "annotate" in stages or "estimate" in stages:
        here = job.config.cluster.kind == "local"  # elsewhere the number is of jobs
        workers = job.config.cluster.workers if here else None
        manifest = annotate_stage.annotate(job.reader, job.annotations, workers=workers, progress=report)
        for name, reason in sorted(manifest.failures.items()):
            summary.failed.append(f"{SequenceKey.from_path(job.dataset, name)}: {reason}")
        job.workspace.set_current(job.dataset, Current(job.annotations_key, _features_to_show(job, stages)))
    files = job.annotation_files()
    summary.sequences = len(files)
    if "annotate" in stages or "merge" in stages:
        exports = annotate_stage.export_splits(
            job.annotations, files, job.workspace.training, job.dataset, complete=annotate_stage.takes_all(job.reader)
        )
        if tuple(stages) == ("annotate",):
            summary.outputs += exports
    return files


def _features_to_show(job: Job, stages: Sequence[str]) -> str | None:
    """The features that queries are about: those of this run, or those that belong to the same annotations."""
    if "estimate" in stages:
        return job.store.folder.name
    known = job.workspace.current(job.dataset) if job.dataset in job.workspace.datasets() else None
    return known.features if known and known.annotations == job.annotations_key else None


def cut(job: Job, stages: Sequence[str], annotations: list[Path]) -> list[Partition]:
    """Cut the annotated sequences into partitions, where a later stage needs them."""
    return [] if tuple(stages) == ("annotate",) else job.partitions(annotations)


def estimate(
    job: Job, partitions: list[Partition], driver: Driver, summary: Summary, report: Reporter, *, verify: bool
) -> None:
    """Run the partitions that aren't finished."""
    store = job.store
    _begin(job, store)
    resume = look_for_finished(partitions, store, verify=verify, maps=job.maps_ending)
    settle(resume, partitions, store)
    store.clear_failures(partitions)
    for text in resume.damaged:
        report.note(f"set aside and to run again: {text}")
    total = sum(p.rows for p in partitions)
    report.start("estimate", total, total - sum(p.rows for p in resume.todo))
    if resume.todo:
        _check_space(job, resume)
        client = driver.client(len(resume.todo))
        tick = driver.watch(job.dataset, total, total - sum(p.rows for p in resume.todo))
        outcome = schedule.run_partitions(
            client, resume.todo, job.estimator, store, report, tick=tick, capacity=driver.capacity
        )
        sweep(resume.todo, store)
        by_id = {p.id: p for p in resume.todo}
        summary.failed += [
            f"{by_id[i].key} frames {by_id[i].first}-{by_id[i].last}: {r}" for i, r in outcome.failed.items()
        ]
        summary.stopped = outcome.stopped
    receipts = store.receipts()
    done = [receipts[p.id] for p in partitions if p.id in receipts]
    for receipt in done:
        summary.rows.update(receipt.counts)
    summary.rows["not_run"] += total - sum(r.rows for r in done)
    summary.rows = +summary.rows
    summary.kept = len(resume.finished)
    summary.ran = len(done) - summary.kept
    report.finish(f"{summary.ran} partitions run, {summary.kept} finished earlier")


def _begin(job: Job, store: FeatureStore) -> None:
    """Write what an estimate starts with."""
    store.create(job.stage)
    job.table.save()
    store.record_run(
        {
            "root": str(job.settings.root.resolve()),
            "models": job.config.models.model_dump(mode="json"),
            "estimate": job.estimate_settings.model_dump(mode="json"),
        }
    )


def merge(job: Job, partitions: list[Partition], summary: Summary, report: Reporter, *, verify: bool = False) -> None:
    """Write the training files of every split that has ground truth; with `verify`, no damaged file goes into them."""
    settings = job.config.merge
    finished = look_for_finished(partitions, job.store, verify=verify)
    for text in finished.damaged:
        report.note(f"damaged, to be estimated again: {text}")
    splits = job.merge_inputs(partitions, finished)
    if not splits:
        report.note(f"{job.dataset} has no ground truth: its features are the result; see `xycd query`.")
        return
    job.workspace.training.mkdir(exist_ok=True)
    receipts = {job.store.folder / receipt.path: receipt for receipt in finished.finished.values()}
    decides = {"xycd": __version__, "stage": job.stage, "merge": settings.model_dump(mode="json", exclude={"workers"})}
    outputs = {
        split: Output.of(job.training_file(split), pairs, receipts, decides) for split, pairs in sorted(splits.items())
    }
    about = {"annotations": job.annotations_key, "features": job.store.folder.name}
    verdicts = judge.read_verdicts(job.workspace.root / job.dataset / judge.FILE, **about)
    judged = settings.judge == "off" or bool(verdicts)
    if judged and all(output.is_current() for output in outputs.values()):
        summary.unchanged = True
        summary.outputs += [output.path for output in outputs.values()]
        report.note(f"{job.dataset}: the training files are up to date")
        if settings.judge != "off":
            _tell(verdicts, report)
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
        summary.outputs.append(output.path)


def _judge(pairs: Sequence[SequenceFiles], job: Job, report: Reporter) -> None:
    """Ask the alignment judge, record its verdicts, and do what the configuration says about faults."""
    path = job.workspace.root / job.dataset / judge.FILE
    if job.config.merge.judge == "off":
        path.unlink(missing_ok=True)  # an older verdict isn't about these features
        return
    verdicts = judge.judge_files(pairs)
    judge.write_verdicts(verdicts, path, annotations=job.annotations_key, features=job.store.folder.name)
    if job.config.merge.judge == "refuse":
        judge.refuse(verdicts)
    _tell(verdicts, report)


def _tell(verdicts: Sequence[judge.Verdict], report: Reporter) -> None:
    for note in judge.notes(verdicts):
        report.note(note)


def _check_space(job: Job, resume: Resume) -> None:
    needed, free = disk_needed(job, resume.todo, resume.unmapped), free_bytes(job.config.workspace)
    if needed <= free:
        return
    raise SpaceError(
        "The features must fit on the disk.",
        f"about {size(needed)} needed, {size(free)} free at {job.config.workspace}",
        "Free some space or choose another --workspace; the same command then goes on.",
    )


def disk_needed(job: Job, partitions: Sequence[Partition], unmapped: Collection[str] = ()) -> int:
    """Bytes that the feature files of `partitions`, and maps, will take, about; of the ids `unmapped`, maps only."""
    settings = job.config.estimate
    channels = describe_models(job.config.models).channels if settings.embeddings.enabled else (0, 0)
    features = 17 * (4 * len(feature_names(settings)) + 2 * sum(channels) + 1) + 32
    kept = maps.bytes_of_row(channels, settings.embeddings)
    return sum(p.rows * (kept if p.id in unmapped else kept + features) + 30_000 for p in partitions)


def _bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
