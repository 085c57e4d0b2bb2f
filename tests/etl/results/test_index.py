from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import Timeout

import etl
from etl.errors import WorkspaceError
from etl.results import index
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


def parts(root: Path) -> list[dict[str, Any]]:
    content = json.loads((stores.store_of(root).folder / "index" / "index.json").read_text())
    return content["parts"]


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
    assert len(parts(tmp_path)) == 2
    # Parts don't become many: small ones are taken up.
    for part in partitions[22:]:
        stores.estimate(tmp_path, [part])
        open_index(tmp_path)
    assert len(rows(tmp_path)) == 160
    assert len(parts(tmp_path)) <= 4
    assert sum(part["rows"] for part in parts(tmp_path)) == 160


def test_rows_of_files_that_count_no_more_go(root: Path, opens: list[str]) -> None:
    rows(root)
    store = stores.store_of(root)
    receipt = next(iter(store.receipts().values()))
    (store.folder / receipt.path).rename((store.folder / receipt.path).with_suffix(".superseded"))
    table = rows(root)
    assert len(table) == 160 - receipt.rows
    assert f"h36m/features/stage-key/{receipt.path}" not in set(table["file"])


def test_a_frame_keeps_answering_while_parts_are_replaced(tmp_path: Path) -> None:
    partitions = stores.annotate(tmp_path, stores.keys())
    stores.estimate(tmp_path, partitions[:3])
    early = open_index(tmp_path)
    stores.estimate(tmp_path, partitions[3:])
    assert len(rows(tmp_path)) == 160
    assert len(early.compute()) == sum(p.rows for p in partitions[:3])


def test_old_parts_stay_for_readers_after_they_were_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partitions = stores.annotate(tmp_path, stores.keys())
    stores.estimate(tmp_path, partitions[:3])
    rows(tmp_path)
    folder = stores.store_of(tmp_path).folder / "index"
    long_ago = time.time() - 25 * 3600
    for path in folder.glob("*.parquet"):
        os.utime(path, (long_ago, long_ago))
    early = open_index(tmp_path)
    stores.estimate(tmp_path, partitions[3:])
    assert len(open_index(tmp_path)) == 160
    assert len(early.compute()) == sum(p.rows for p in partitions[:3])
    # A day after they were replaced they go, whatever the rest does.
    content = json.loads((folder / "index.json").read_text())
    assert len(content["replaced"]) == 1
    content["replaced"] = dict.fromkeys(content["replaced"], long_ago)
    content["parts"] = []
    (folder / "index.json").write_text(json.dumps(content))
    rows(tmp_path)
    assert not [name for name in content["replaced"] if (folder / name).exists()]
    assert len(rows(tmp_path)) == 160


def test_replaced_parts_are_removed_in_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stores.store_of(root).folder / "index"
    rows(root)
    stray = folder / "old.parquet"
    stray.write_bytes(b"")
    (folder / "index.json").unlink()
    rows(root)
    assert stray.exists()
    monkeypatch.setattr(index, "KEEP", -1.0)
    (folder / "index.json").unlink()
    rows(root)
    assert not stray.exists()
    assert len(rows(root)) == 160


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"layout": 1}', b'{"layout": 0, "parts": []}'])
def test_a_damaged_index_is_made_anew(root: Path, damage: bytes) -> None:
    rows(root)
    (stores.store_of(root).folder / "index" / "index.json").write_bytes(damage)
    assert len(rows(root)) == 160


def test_where_it_cannot_be_written_it_stays_in_memory(root: Path) -> None:
    (stores.store_of(root).folder / "index").write_text("a file where the folder would be")
    assert len(rows(root)) == 160


def test_a_refresh_that_takes_long_is_not_waited_for(
    tmp_path: Path, opens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    partitions = stores.annotate(tmp_path, stores.keys())
    stores.estimate(tmp_path, partitions[:20])
    rows(tmp_path)
    stores.estimate(tmp_path, partitions[20:])

    class Busy:
        def __init__(self, path: Path, timeout: float) -> None:
            pass

        def __enter__(self) -> None:
            raise Timeout("busy")

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(index, "FileLock", Busy)
    assert len(rows(tmp_path)) == 160
    assert len(parts(tmp_path)) == 1


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
