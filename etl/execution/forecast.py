"""What a run will come to, before anything is annotated: frames from the media's own counts, bytes from the layouts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from etl.datasets.base import Sequence as RawSequence
from etl.errors import MediaError
from etl.execution.job import Job
from etl.media.frames import Media, frame_count, media_rate
from etl.stages.files.mmpose import UNLABELLED
from etl.stages.identity import describe_models
from etl.store.partition import Partition
from schemas import mmpose, xycd

COUNTED: Final = 64  # sequences whose media are opened; the others are taken to be as long as these
IMAGE_RATES: Final = {"h36m": 50.0}  # of images, which say none: extracted from every frame of the videos
NAME: Final = 64  # characters of an image's name, about


def expected_partitions(job: Job, sequences: Sequence[RawSequence]) -> list[Partition]:
    """Partitions of sequences that aren't annotated yet, about: as long as their media, for one person, without ids.

    Of many sequences only `COUNTED`, evenly spread, are looked at. Sequences count nothing if no media can be opened.
    """
    every = max(len(sequences) / COUNTED, 1.0)
    looked = {int(i * every) for i in range(min(len(sequences), COUNTED))}
    counted = {i: rows for i in sorted(looked) if (rows := _rows(job, sequences[i].media)) is not None}
    if not counted:
        return []
    usual = round(fmean(counted.values()))
    return [part for i, sequence in enumerate(sequences) for part in _partitions(job, sequence, counted.get(i, usual))]


def _rows(job: Job, media: Media) -> int | None:
    """Frames of the media at the rate asked for; None where they can't be counted."""
    hz = job.settings.frame_options().get("hz")
    try:
        frames = frame_count(job.settings.root, media)
        rate = 0.0 if hz is None else media_rate(job.settings.root, media) or IMAGE_RATES.get(job.dataset, 0.0)
    except MediaError:
        return None
    return math.ceil(frames / max(round(rate / hz), 1)) if hz else frames


def _partitions(job: Job, sequence: RawSequence, rows: int) -> list[Partition]:
    size = job.config.estimate.partition_frames
    spans = [(first, min(size, rows - first)) for first in range(0, rows, size)]
    name = f"{sequence.key.path}.nc"
    return [Partition(sequence.key, first, first + count - 1, count, count, "", name) for first, count in spans]


def training_rows(job: Job, sequences: Sequence[RawSequence], partitions: Sequence[Partition]) -> dict[str, int]:
    """Rows of the training file of each split that will have one: the splits with ground truth.

    Parameters
    ----------
    job : Job
        The dataset.
    sequences : sequence of etl.datasets.base.Sequence
        All that take part, annotated or not.
    partitions : sequence of Partition
        Theirs, finished or not, expected ones included.
    """
    rows: Counter[str] = Counter()
    for partition in partitions:
        rows[partition.annotation] += partition.rows
    found: Counter[str] = Counter()
    for sequence in sequences:
        name = f"{sequence.key.path}.nc"
        annotated = (job.annotations / name).exists()
        # A listing reads no joints; but a sequence without them names no files to read, or its split says so.
        labelled = bool(sequence.files) and sequence.split != UNLABELLED
        if job.table.entry(name).has_truth if annotated else labelled:
            found[sequence.split] += rows[name]
    return dict(sorted(found.items()))


def training_bytes(job: Job, rows: int) -> int:
    """Bytes of the training files of `rows` rows, MMPose's own included, about."""
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
