from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import WorkspaceError
from etl.store.partition import Receipt, SequenceRows, check_disjoint, cut_sequence, digest
from schemas import annotation
from schemas.keys import SequenceKey


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 50), people=st.integers(1, 3), size=st.integers(1, 20))
def test_every_row_is_in_exactly_one_partition(frames: int, people: int, size: int) -> None:
    ds = annotation.mock(frames=frames, people=people)
    parts = cut_sequence(ds, "a.nc", "key", size, uses_boxes=False)
    assert sum(p.rows for p in parts) == ds.sizes["frame"]
    assert sum(p.frames for p in parts) == frames
    assert len({p.id for p in parts}) == len(parts)
    assert max(p.frames for p in parts) <= size
    covered = [n for p in parts for n in range(p.first, p.last + 1)]
    assert covered == list(range(frames))


def _ids(ds: object, key: str = "key", size: int = 10, uses_boxes: bool = False) -> list[str]:
    return [p.id for p in cut_sequence(ds, "a.nc", key, size, uses_boxes=uses_boxes)]  # type: ignore[arg-type]


def test_an_id_depends_on_inputs_alone() -> None:
    ds = annotation.mock(frames=30)
    ids = _ids(ds)
    assert ids == _ids(annotation.mock(frames=30))
    assert not set(ids) & set(_ids(ds, key="other models"))
    assert not set(ids) & set(_ids(ds.assign_attrs(media_bytes=1001)))
    assert not set(ids) & set(_ids(ds.assign_attrs(media=ds.attrs["media"].replace("S1", "S5"))))
    # A longer sequence keeps the partitions that it shares with the shorter one.
    assert _ids(annotation.mock(frames=40))[:3] == ids


def test_boxes_count_only_where_they_are_used() -> None:
    first, second = annotation.mock(frames=5, seed=0), annotation.mock(frames=5, seed=1)
    assert _ids(first) == _ids(second)
    assert _ids(first, uses_boxes=True) != _ids(second, uses_boxes=True)


def test_frames_with_gaps_are_cut_by_count() -> None:
    ds = annotation.mock(frames=10)
    ds = ds.assign_coords(frame_number=("frame", np.arange(0, 20, 2, dtype=np.int32)))
    parts = cut_sequence(ds, "a.nc", "key", 4, uses_boxes=False)
    assert [(p.first, p.last, p.frames) for p in parts] == [(0, 6, 4), (8, 14, 4), (16, 18, 2)]
    assert parts[0].path.name == f"000000-000006_{parts[0].id}.nc"


@pytest.mark.parametrize("ground_truth", [True, False])
@pytest.mark.parametrize("uses_boxes", [True, False])
def test_files_are_cut_as_the_datasets_in_them(tmp_path: Path, ground_truth: bool, uses_boxes: bool) -> None:
    key = SequenceKey("folder", "bühne", "a=b", 0, "")
    ds = annotation.mock(key, frames=30, people=2, ground_truth=ground_truth).assign_attrs(camera_parameters="")
    ds.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    rows = SequenceRows.read(tmp_path / "a.nc", boxes=uses_boxes)
    read, given = (cut_sequence(source, "a.nc", "key", 10, uses_boxes=uses_boxes) for source in (rows, ds))
    assert read == given
    assert (rows.key, rows.split, rows.has_truth) == (key, "train", ground_truth)


def test_receipt_round_trip() -> None:
    receipt = Receipt("id", "a/b.nc", 5, 5, {"ok": 4, "no_person": 1}, 100, "ff", 1.5, "host-1")
    assert Receipt.from_json(receipt.to_json()) == receipt
    timed = replace(receipt, wait_s=0.25, model_s=1.0)
    assert Receipt.from_json(timed.to_json()) == timed


def test_receipt_of_before_the_pace_was_known() -> None:
    line = (
        '{"bytes": 100, "counts": {"ok": 5}, "frames": 5, "id": "id", "path": "a/b.nc", "rows": 5, '
        '"seconds": 1.5, "sha256": "ff", "worker": "host-1"}'
    )
    assert (Receipt.from_json(line).wait_s, Receipt.from_json(line).model_s) == (0, 0)


def test_digest_tells_types_and_order_apart() -> None:
    values = [np.zeros(2), np.zeros(2, np.float32), np.zeros((1, 2)), [0.0, 0.0], {"a": 1}, {"a": 2}]
    assert len({digest(v) for v in values}) == len(values)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest("ab", "c") != digest("a", "bc")


def test_two_files_with_the_same_frame_are_refused() -> None:
    one, other = SequenceKey("h36m", "S1", "Walking", 1, "0"), SequenceKey("h36m", "S1", "Walking", 1, "1")
    check_disjoint({Path("a"): (one, 0, 9), Path("b"): (one, 10, 19), Path("c"): (other, 0, 9)})
    with pytest.raises(WorkspaceError, match=r"a and b"):
        check_disjoint({Path("b"): (one, 9, 19), Path("a"): (one, 0, 9)})
