"""What a run would do, in words; nothing is started and nothing written."""

from __future__ import annotations

import collections

from etl.config import Config
from etl.execution import steps
from etl.execution.driver import RUN_FOLDER
from etl.execution.forecast import expected_partitions, training_bytes, training_rows
from etl.execution.job import Job
from etl.execution.resume import look_for_finished
from etl.models import registry
from etl.stages.progress import size
from etl.store.workspace import free_bytes


def plan(config: Config, *, verify: bool = False) -> str:
    """Describe the run that `config` asks for; with `verify`, finished files are opened to see whether they are whole.

    Raises
    ------
    etl.errors.XycdError
        When it couldn't start.
    """
    datasets = steps.check(config, ("annotate", "estimate", "merge"))
    config, notes = registry.choose_runtimes(config, compute=True)
    parts = [describe(Job(name, config), verify=verify) for name in datasets] + notes
    parts.append(_cluster(config))
    parts.append(f"workspace {config.workspace}: {size(free_bytes(config.workspace))} free")
    return "\n\n".join(parts)


def describe(job: Job, *, verify: bool = False) -> str:
    """One dataset: its sequences, what is done and missing, the models, the outputs.

    Parameters
    ----------
    job : Job
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
    resume = look_for_finished(partitions, job.store, verify=verify, maps=job.maps_ending)
    missing = [s for s in sequences if not annotated[s.key].exists()]
    expected = expected_partitions(job, missing)
    todo, about = [*resume.todo, *expected], "about " if missing else ""
    frames, left = (sum(p.frames for p in chosen) for chosen in ([*partitions, *expected], todo))
    lines.append(f"  frames       {about}{frames:,}, of which {about}{left:,} to do")
    if missing and not expected:
        lines[-1] += f", without those of {len(missing):,} sequences that can't be counted yet"
    for_maps = f", of which {len(resume.unmapped):,} for their maps only" if resume.unmapped else ""
    lines.append(f"  partitions   {len(resume.finished):,} finished, {about}{len(todo):,} to do{for_maps}")
    lines += [f"  damaged      {text}" for text in resume.damaged]
    lines.append(f"  features     {job.store.folder}")
    rows = training_rows(job, sequences, [*partitions, *expected])
    outputs = {job.training_file(split): count for split, count in rows.items()}
    to_write = sum(count for path, count in outputs.items() if todo or not path.exists())
    features, training = steps.disk_needed(job, todo, resume.unmapped), training_bytes(job, to_write)
    lines.append(f"  disk         about {size(features)} for features to do, {size(training)} for training files")
    lines.append(f"  models       {job.config.models.set}: {_models(job)}")
    lines += [f"  writes       {path}" for path in outputs] or ["  writes       features only: no ground truth"]
    return "\n".join(lines)


def _models(job: Job) -> str:
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
