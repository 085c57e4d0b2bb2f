"""Plan of a run: checks before it starts, estimates of frames and bytes, text of `xycd plan`. Writes nothing."""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Final

from etl.config import Config
from etl.datasets.base import Sequence as RawSequence
from etl.errors import ConfigError, MediaError
from etl.execution.driver import RUN_FOLDER
from etl.execution.job import DatasetJob
from etl.execution.resume import inspect_store
from etl.media.frames import Media, frame_count, media_rate
from etl.models import registry
from etl.stages.blocks.chain import feature_names
from etl.stages.files import maps
from etl.stages.files.mmpose import UNLABELLED
from etl.stages.identity import describe_models
from etl.stages.progress import size
from etl.store.disk import free_bytes
from etl.store.partition import Partition
from schemas import mmpose, xycd

COUNTED: Final = 64  # sequences whose media are opened; the others are assumed to have the mean length of these
IMAGE_RATES: Final = {"h36m": 50.0}  # of image folders, which have no rate: every frame of the videos was extracted
NAME: Final = 64  # assumed characters of an image's name


def check_run(config: Config, stages: Sequence[str]) -> list[str]:
    """Check the configuration and the raw datasets' layouts before anything runs; return the datasets' names.

    Raises
    ------
    etl.errors.XycdError
        When the run can't start.
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
        maps.check_can_keep(config.estimate.embeddings, config.models)
    for name in datasets:
        DatasetJob(name, config).reader.sequences()  # lists the files only
    return list(datasets)


def plan(config: Config, *, verify: bool = False) -> str:
    """Describe the run that `config` asks for; with `verify`, open finished files to check them.

    Raises
    ------
    etl.errors.XycdError
        When the run can't start.
    """
    datasets = check_run(config, ("annotate", "estimate", "merge"))
    config, notes = registry.choose_runtimes(config, compute=True)
    parts = [describe_dataset(DatasetJob(name, config), verify=verify) for name in datasets] + notes
    parts.append(_cluster(config))
    parts.append(f"workspace {config.workspace}: {size(free_bytes(config.workspace))} free")
    return "\n\n".join(parts)


def describe_dataset(job: DatasetJob, *, verify: bool = False) -> str:
    """Describe the run on one dataset: sequences, finished and missing partitions, models, outputs.

    Parameters
    ----------
    job : DatasetJob
        The dataset.
    verify : bool
        Open finished files.
    """
    sequences = job.reader.sequences()
    splits = collections.Counter(s.split for s in sequences)
    lines = [
        f"{job.dataset} in {job.settings.root}",
        f"  sequences    {len(sequences):,} ({', '.join(f'{name} {n:,}' for name, n in sorted(splits.items()))})",
        f"  subjects     {', '.join(sorted({s.key.subject for s in sequences}))}",
        f"  cameras      {', '.join(sorted({s.key.camera for s in sequences}))}",
    ]
    annotated = {s.key: job.annotations / f"{s.key.path}.nc" for s in sequences}
    existing = [path for path in annotated.values() if path.exists()]
    lines.append(f"  annotations  {len(existing):,} of {len(annotated):,} sequences in {job.annotations}")
    partitions = job.partitions(existing)
    state = inspect_store(partitions, job.store, verify=verify, maps=job.maps_ending)
    missing = [s for s in sequences if not annotated[s.key].exists()]
    expected = expected_partitions(job, missing)
    todo, about = [*state.todo, *expected], "about " if missing else ""
    frames, left = (sum(p.frames for p in chosen) for chosen in ([*partitions, *expected], todo))
    lines.append(f"  frames       {about}{frames:,}, of which {about}{left:,} to do")
    if missing and not expected:
        lines[-1] += f", without those of {len(missing):,} sequences that can't be counted yet"
    for_maps = f", of which {len(state.unmapped):,} for their maps only" if state.unmapped else ""
    lines.append(f"  partitions   {len(state.finished):,} finished, {about}{len(todo):,} to do{for_maps}")
    lines += [f"  damaged      {text}" for text in state.damaged]
    lines.append(f"  features     {job.store.folder}")
    rows = training_rows(job, sequences, [*partitions, *expected])
    outputs = {job.training_path(split): count for split, count in rows.items()}
    to_write = sum(count for path, count in outputs.items() if todo or not path.exists())
    features, training = disk_needed(job, todo, state.unmapped), training_bytes(job, to_write)
    lines.append(f"  disk         about {size(features)} for features to do, {size(training)} for training files")
    lines.append(f"  models       {job.config.models.set}: {_models(job)}")
    lines += [f"  writes       {path}" for path in outputs] or ["  writes       features only: no ground truth"]
    return "\n".join(lines)


def _models(job: DatasetJob) -> str:
    models = job.stage["models"]
    named = [f"{name} ({digest[:8]})" for name, digest in models.get("files", {}).items()]
    named += [f"{models[part]} on {runtime}" for part, runtime in models.get("runtimes", {}).items()]
    return ", ".join(named) or models["name"]


def _cluster(config: Config) -> str:
    chosen = config.cluster
    if chosen.kind == "local":
        workers = f"{chosen.workers} workers" if chosen.workers else "one worker per core or GPU"
        return f"cluster local: {workers} on this machine"
    from cluster.slurm.detach import driver_script
    from cluster.slurm.jobs import job_script

    folder = config.workspace.resolve() / RUN_FOLDER
    count = f"{chosen.minimum} to {chosen.maximum}" if chosen.adaptive else f"{chosen.workers or 1}"
    jobs = f"{count} job{'s' * (count != '1')}, each by this script"
    driver = driver_script(chosen, ["-m", "etl.cli", "run", "..."], folder)
    return f"cluster slurm: {jobs}:\n\n{job_script(chosen, folder)}\nWith --detach, the driver's job:\n\n{driver}"


def expected_partitions(job: DatasetJob, sequences: Sequence[RawSequence]) -> list[Partition]:
    """Estimate the partitions of sequences without annotations: one person per frame of the media; no ids.

    At most `COUNTED` media, evenly spread, are opened. Without any that can be opened, the list is empty.
    """
    every = max(len(sequences) / COUNTED, 1.0)
    looked = {int(i * every) for i in range(min(len(sequences), COUNTED))}
    counted = {i: rows for i in sorted(looked) if (rows := _rows(job, sequences[i].media)) is not None}
    if not counted:
        return []
    usual = round(fmean(counted.values()))
    return [part for i, sequence in enumerate(sequences) for part in _partitions(job, sequence, counted.get(i, usual))]


def _rows(job: DatasetJob, media: Media) -> int | None:
    """Number of frames at the configured rate; None if they can't be counted."""
    hz = job.settings.frame_options().get("hz")
    try:
        frames = frame_count(job.settings.root, media)
        rate = 0.0 if hz is None else media_rate(job.settings.root, media) or IMAGE_RATES.get(job.dataset, 0.0)
    except MediaError:
        return None
    return math.ceil(frames / max(round(rate / hz), 1)) if hz else frames


def _partitions(job: DatasetJob, sequence: RawSequence, rows: int) -> list[Partition]:
    size = job.config.estimate.partition_frames
    spans = [(first, min(size, rows - first)) for first in range(0, rows, size)]
    name = f"{sequence.key.path}.nc"
    return [Partition(sequence.key, first, first + count - 1, count, count, "", name) for first, count in spans]


def training_rows(job: DatasetJob, sequences: Sequence[RawSequence], partitions: Sequence[Partition]) -> dict[str, int]:
    """Count the rows of each split's training file; splits without ground truth have none.

    Parameters
    ----------
    job : DatasetJob
        The dataset.
    sequences : sequence of etl.datasets.base.Sequence
        All sequences of the run, annotated or not.
    partitions : sequence of Partition
        Their partitions, finished or not, with the expected ones.
    """
    rows: collections.Counter[str] = collections.Counter()
    for partition in partitions:
        rows[partition.annotation] += partition.rows
    found: collections.Counter[str] = collections.Counter()
    for sequence in sequences:
        name = f"{sequence.key.path}.nc"
        annotated = (job.annotations / name).exists()
        # Listing reads no joints, but a sequence without joints has no annotation files, or an unlabelled split.
        labelled = bool(sequence.files) and sequence.split != UNLABELLED
        if job.table.entry(name).has_truth if annotated else labelled:
            found[sequence.split] += rows[name]
    return dict(sorted(found.items()))


def training_bytes(job: DatasetJob, rows: int) -> int:
    """Estimate the bytes of training files with `rows` rows, with MMPose's own files."""
    settings, one = job.config.estimate, {"imgname": NAME, "subject": 8, "action": 16, "camera": 8}
    channels = describe_models(job.config.models).channels if settings.embeddings.enabled else (0, 0)
    arrays = xycd.layout(
        1,
        text=one,
        truth=True,
        statistics=settings.descriptor.statistics,
        pose_channels=channels[0],
        depth_channels=channels[1],
        vectors="float16" if job.config.merge.compat else "float32",
    )
    own = sum(math.prod(shape) * dtype.itemsize for shape, dtype in arrays.values())
    theirs = 4 * NAME + sum(8 * math.prod(shape) for shape in mmpose.ARRAYS.values())
    return rows * (own + theirs)


def disk_needed(job: DatasetJob, partitions: Sequence[Partition], unmapped: Collection[str] = ()) -> int:
    """Estimate the bytes of the partitions' feature files and maps; for ids in `unmapped`, of the maps alone."""
    settings = job.config.estimate
    channels = describe_models(job.config.models).channels if settings.embeddings.enabled else (0, 0)
    features = 17 * (4 * len(feature_names(settings)) + 2 * sum(channels) + 1) + 32
    kept = maps.bytes_of_row(channels, settings.embeddings)
    return sum(p.rows * (kept if p.id in unmapped else kept + features) + 30_000 for p in partitions)
