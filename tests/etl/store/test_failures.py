"""Everything that isn't ok is listed, whatever state the workspace is in."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl import pipeline
from etl.execution.job import DatasetJob
from etl.store.failures import list_failures
from etl.store.partition import Partition
from etl.store.partition_table import PartitionTable
from schemas.features import Status
from tests.etl import stores
from tests.etl.conftest import CAMERAS, Walk


@pytest.fixture
def parts(tmp_path: Path) -> list[Partition]:
    """Partitions 0-7, 8-15 and 16-19 of S1 and S9, noted as a run notes them."""
    found = stores.annotate(tmp_path, stores.keys(["S1", "S9"], ["Walking"], ["54138969"]))
    folder = stores.store_of(tmp_path).folder
    annotations = tmp_path / "h36m" / "annotations" / stores.ANNOTATIONS
    table = PartitionTable(
        folder / f"partitions-{stores.ANNOTATIONS}.json",
        "h36m",
        annotations,
        stage_key=stores.STAGE,
        frames=8,
        uses_boxes=False,
    )
    for name in sorted({part.annotation for part in found}):
        assert table.partitions(name) == [part for part in found if part.annotation == name]
    table.save()
    return found


def listed(root: Path) -> list[tuple[str, str, str]]:
    found = list_failures(root)
    return list(zip(found["subject"], found["what"], found["frame"], strict=True))


def test_a_damaged_file_is_a_row_of_its_own(tmp_path: Path, parts: list[Partition]) -> None:
    stores.estimate(tmp_path, parts, {3: Status.NO_PERSON, 9: Status.MODEL_ERROR})
    path = stores.store_of(tmp_path).folder / parts[0].path
    path.write_bytes(path.read_bytes()[:1000])
    assert listed(tmp_path) == [
        ("S1", "unreadable", "000000-000007"),
        ("S1", "model_error", "9"),
        ("S9", "no_person", "3"),
        ("S9", "model_error", "9"),
    ]
    reason = list_failures(tmp_path)["reason"][0]
    assert path.name in reason
    assert "--verify" in reason


def test_what_no_run_has_got_to_is_listed_by_stretches(tmp_path: Path, parts: list[Partition]) -> None:
    first, second, third, *others = parts
    store = stores.store_of(tmp_path)
    stores.estimate(tmp_path, [second])
    store.add_failure(others[0], "it died")
    expected = [
        ("S9", "partition", "0-7"),
        ("S1", "not_run", "0-7"),
        ("S1", "not_run", "16-19"),
        ("S9", "not_run", "8-19"),
    ]
    assert listed(tmp_path) == expected
    # A file that was set aside is to do again; a sequence that is annotated no more isn't.
    (store.folder / second.path).rename((store.folder / second.path).with_suffix(".damaged"))
    (tmp_path / "h36m" / "annotations" / stores.ANNOTATIONS / others[0].annotation).unlink()
    assert ("S1", "not_run", "0-19") in listed(tmp_path)
    assert not any(subject == "S9" and what == "not_run" for subject, what, _ in listed(tmp_path))
    stores.estimate(tmp_path, [first, second, third])
    assert not any(what == "not_run" for _, what, _ in listed(tmp_path))


def test_a_run_of_some_sequences_keeps_the_failures_of_others(walk: Walk) -> None:
    job = DatasetJob("h36m", walk.config())
    parts = job.partitions(job.annotation_files())
    for part in parts:
        job.store.add_failure(part, f"of {part.key.camera}")
    config = walk.config()
    section = config.datasets.h36m.model_copy(update={"cameras": (CAMERAS[0],)})  # type: ignore[union-attr]
    fewer = config.model_copy(update={"datasets": config.datasets.model_copy(update={"h36m": section})})
    pipeline.run(fewer, stages=("annotate", "estimate"))
    assert [entry["reason"] for entry in job.store.failures()] == [f"of {CAMERAS[1]}"]
    assert listed(walk.work) == [("S1", "partition", "0-39")]
    pipeline.run(config, stages=("annotate", "estimate"))
    assert job.store.failures() == []
    assert not job.store.failures_path.exists()
