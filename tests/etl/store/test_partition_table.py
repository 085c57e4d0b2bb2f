from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from etl.store.partition import cut_sequence
from etl.store.partition_table import PartitionTable
from schemas import annotation
from schemas.keys import SequenceKey

KEYS = [SequenceKey("h36m", "S1", "Walking", 1, camera) for camera in ("54138969", "a=b/c")]


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Annotation files of two sequences."""
    for key in KEYS:
        path = tmp_path / f"{key.path}.nc"
        path.parent.mkdir(parents=True, exist_ok=True)
        annotation.mock(key, 30).to_netcdf(path, engine="netcdf4")
    return [f"{key.path}.nc" for key in KEYS]


def table(folder: Path, **changes: Any) -> PartitionTable:
    options = {"stage_key": "key", "frames": 12, "uses_boxes": True, **changes}
    return PartitionTable(folder / "partitions.json", "h36m", folder, **options)


def test_partitions_are_those_of_the_annotation(tmp_path: Path, names: list[str], opens: list[str]) -> None:
    for again in (False, True):
        found = table(tmp_path)
        for key, name in zip(KEYS, names, strict=True):
            ds = annotation.mock(key, 30)
            assert found.partitions(name) == cut_sequence(ds, name, "key", 12, uses_boxes=True)
            assert (found.entry(name).split, found.entry(name).has_truth) == ("train", True)
        assert len(opens) == 2  # none of them the second time
        if not again:
            assert not (tmp_path / "partitions.json").exists()
            found.save()


@pytest.mark.parametrize("changes", [{"stage_key": "other"}, {"frames": 10}, {"uses_boxes": False}])
def test_other_parameters_are_cut_anew(
    tmp_path: Path, names: list[str], opens: list[str], changes: dict[str, Any]
) -> None:
    first = table(tmp_path)
    before = first.partitions(names[0])
    first.save()
    after = table(tmp_path, **changes).partitions(names[0])
    assert len(opens) == 2
    assert not {p.id for p in after} & {p.id for p in before}


def test_a_replaced_annotation_is_cut_anew(tmp_path: Path, names: list[str], opens: list[str]) -> None:
    first = table(tmp_path)
    before = [first.partitions(name) for name in names]
    first.save()
    path = tmp_path / names[0]
    annotation.mock(KEYS[0], 30, seed=1).to_netcdf(path, engine="netcdf4")
    os.utime(path, ns=(0, 0))
    opens.clear()
    second = table(tmp_path)
    after = [second.partitions(name) for name in names]
    assert opens == [str(path)]
    assert before[1] == after[1]
    assert not {p.id for p in after[0]} & {p.id for p in before[0]}
    second.save()
    assert [table(tmp_path).partitions(name) for name in names] == after
    assert len(opens) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"layout": 1}', b'{"layout": 0}'])
def test_a_damaged_table_is_made_anew(tmp_path: Path, names: list[str], damage: bytes) -> None:
    first = table(tmp_path)
    before = first.partitions(names[0])
    first.save()
    (tmp_path / "partitions.json").write_bytes(damage)
    assert table(tmp_path).partitions(names[0]) == before
