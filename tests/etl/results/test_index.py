from __future__ import annotations

import os
import time
from pathlib import Path

import pandas as pd
import pytest

import etl
from etl.errors import WorkspaceError
from etl.results.index import open_index
from etl.store.workspace import Current, Workspace
from schemas.features import Status
from tests.etl import stores

COLUMNS = ["dataset", "subject", "action", "subaction", "camera", "person", "frame", "status", "file"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """8 sequences of 20 frames, all estimated; frames 3 failed."""
    stores.estimate(tmp_path, stores.annotate(tmp_path, stores.keys()), {3: Status.NO_PERSON})
    return tmp_path


def rows(root: Path, dataset: str | None = None) -> pd.DataFrame:
    table = open_index(root, dataset).compute()
    assert list(table.columns) == COLUMNS
    return table.sort_values(["subject", "action", "camera", "person", "frame"], ignore_index=True)


def states(root: Path) -> list[Path]:
    return sorted((stores.store_of(root).folder / "index").glob("*.parquet"))


def test_every_frame_is_there_once(root: Path) -> None:
    table = rows(root)
    assert len(table) == 160
    assert not table.duplicated(["subject", "action", "camera", "frame"]).any()
    assert set(table.loc[table["status"] != "ok", "frame"]) == {3}
    assert set(table.loc[table["frame"] == 3, "status"]) == {"no_person"}
    row = table[(table["subject"] == "S9") & (table["camera"] == "55011271") & (table["frame"] == 17)].iloc[0]
    assert row["file"].startswith(
        "h36m/features/stage-key/subject=S9/action=Directions/subaction=1/camera=55011271/000016"
    )
    assert all((root / file).is_file() for file in set(table["file"]))


def test_large_questions_go_through_dask(root: Path) -> None:
    table = etl.open_index(root)
    counts = table[table["status"] == "ok"].groupby(["subject", "action"]).size().compute()
    assert counts.to_dict() == {(s, a): 38 for s in ("S1", "S9") for a in ("Directions", "Walking")}


def test_only_new_files_are_read(tmp_path: Path, opens: list[str]) -> None:
    partitions = stores.annotate(tmp_path, stores.keys())
    stores.estimate(tmp_path, partitions[:20])
    assert len(rows(tmp_path)) == sum(p.rows for p in partitions[:20])
    assert len(opens) == 20
    opens.clear()
    open_index(tmp_path)
    assert not opens
    stores.estimate(tmp_path, partitions[20:22])
    assert len(rows(tmp_path)) == sum(p.rows for p in partitions[:22])
    assert len(opens) == 2
    for part in partitions[22:]:
        opens.clear()
        stores.estimate(tmp_path, [part])
        open_index(tmp_path)
        assert len(opens) == 1
    assert len(rows(tmp_path)) == 160


def test_rows_of_files_that_count_no_more_go(root: Path, opens: list[str]) -> None:
    rows(root)
    store = stores.store_of(root)
    receipt = next(iter(store.receipts().values()))
    (store.folder / receipt.path).rename((store.folder / receipt.path).with_suffix(".superseded"))
    table = rows(root)
    assert len(table) == 160 - receipt.rows
    assert f"h36m/features/stage-key/{receipt.path}" not in set(table["file"])


def test_a_frame_keeps_answering_while_the_index_grows(tmp_path: Path) -> None:
    partitions = stores.annotate(tmp_path, stores.keys())
    stores.estimate(tmp_path, partitions[:3])
    early = open_index(tmp_path)
    stores.estimate(tmp_path, partitions[3:])
    assert len(rows(tmp_path)) == 160
    assert len(early.compute()) == sum(p.rows for p in partitions[:3])


def test_earlier_states_stay_for_a_day(tmp_path: Path) -> None:
    partitions = stores.annotate(tmp_path, stores.keys())
    for number in (3, 4):
        stores.estimate(tmp_path, partitions[:number])
        rows(tmp_path)
    long_ago, now = time.time() - 25 * 3600, time.time()
    old, young = states(tmp_path)
    os.utime(old, (long_ago, long_ago))
    os.utime(young, (now - 3600, now - 3600))
    stores.estimate(tmp_path, partitions)
    assert len(rows(tmp_path)) == 160
    assert not old.exists()
    assert young.exists()
    assert len(states(tmp_path)) == 2


@pytest.mark.parametrize("damage", [b"", b"PAR1 nothing else", None])
def test_a_damaged_state_is_passed_over(tmp_path: Path, opens: list[str], damage: bytes | None) -> None:
    partitions = stores.annotate(tmp_path, stores.keys())
    stores.estimate(tmp_path, partitions[:5])
    rows(tmp_path)
    (state,) = states(tmp_path)
    if damage is None:  # another table that somebody left there
        pd.DataFrame({"a": [1]}).to_parquet(state)
    else:
        state.write_bytes(damage)
    opens.clear()
    stores.estimate(tmp_path, partitions[5:])
    assert len(rows(tmp_path)) == 160
    assert len(opens) == len(partitions)


def test_a_file_that_was_made_again_is_read_again(root: Path) -> None:
    before = rows(root)
    stores.estimate(root, stores.annotate(root, stores.keys()), {5: Status.NO_PERSON})
    after = rows(root)
    assert len(after) == len(before) == 160
    assert set(after.loc[after["status"] != "ok", "frame"]) == {5}


def test_where_it_cannot_be_written_it_stays_in_memory(root: Path) -> None:
    (stores.store_of(root).folder / "index").write_text("a file where the folder would be")
    assert len(rows(root)) == 160


def test_several_datasets(root: Path) -> None:
    space = Workspace(root)
    space.set_current("folder", Current("a", None))  # annotated only
    assert set(rows(root)["dataset"]) == {"h36m"}
    space.set_current("3dpw", Current("a", "b"))  # begun
    assert len(rows(root)) == 160
    assert len(rows(root, "3dpw")) == 0


def test_without_results(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="xycd run"):
        open_index(tmp_path)
    Workspace(tmp_path).set_current("h36m", Current("a", None))
    with pytest.raises(WorkspaceError, match="xycd estimate"):
        open_index(tmp_path)
