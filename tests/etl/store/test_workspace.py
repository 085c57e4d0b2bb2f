from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etl.errors import WorkspaceError
from etl.store.disk import free_bytes
from etl.store.partition import Receipt
from etl.store.workspace import (
    MARKER,
    Current,
    FeatureStore,
    Workspace,
    append_line,
    atomic_target,
    write_atomically,
)


def _receipt(name: str) -> Receipt:
    return Receipt(name, f"{name}.nc", 1, 1, {"ok": 1}, 10, "ff", 0.1, "host-1")


def test_second_run_is_refused_while_one_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from etl.store.workspace import Workspace\n"
        f"with Workspace(Path({str(tmp_path / 'w')!r})).writing():\n"
        "    print('writing', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    with pytest.raises(WorkspaceError, match=rf"process {process.pid}"), Workspace(tmp_path / "w").writing():
        pass
    process.kill()  # kill -9 leaves no lock behind
    process.wait()
    with Workspace(tmp_path / "w").writing():
        pass


def test_a_strangers_folder_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(WorkspaceError, match=r"thesis\.tex"), Workspace(tmp_path).writing():
        pass


def _finished(root: Path) -> Workspace:
    """A workspace with keys of a run."""
    workspace = Workspace(root)
    with workspace.writing():
        workspace.set_current("h36m", Current("a", "f"))
    return workspace


@pytest.mark.parametrize("content", ['{"layout": 99}', "{}", "{", "[]", ""])
def test_a_workspace_of_another_version_is_neither_read_nor_written(tmp_path: Path, content: str) -> None:
    workspace = _finished(tmp_path)
    assert workspace.current("h36m") == Current("a", "f")
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(WorkspaceError, match="layout 1") as caught:
        workspace.current("h36m")
    assert MARKER in caught.value.found or "99" in caught.value.found
    with pytest.raises(WorkspaceError, match="layout 1"), workspace.writing():
        pass


@pytest.mark.parametrize("content", ["{", "[1]", '{"bogus": 1}', "\xff"])
def test_damaged_keys_of_the_last_run(tmp_path: Path, content: str) -> None:
    workspace = _finished(tmp_path)
    path = tmp_path / "h36m" / "current.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(WorkspaceError, match="unreadable") as caught:
        workspace.current("h36m")
    assert str(path) in caught.value.rule


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so the operating system's answer is put in place of a real read-only disk.
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("etl.store.workspace.tempfile.TemporaryFile", refuse)
    with pytest.raises(WorkspaceError, match="read-only"), Workspace(tmp_path / "w").writing():
        pass


def test_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    def write_to_a_full_disk() -> None:
        with atomic_target(tmp_path / "a.nc"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WorkspaceError, match="Free some space"):
        write_to_a_full_disk()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def fail_half_way() -> None:
        with atomic_target(path) as temporary:
            temporary.write_bytes(b"ne")
            raise ValueError

    with pytest.raises(ValueError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_receipts_survive_a_line_cut_short(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    store.create({"models": "x"})
    store.add_receipt(_receipt("a"))
    with store.receipts_path.open("ab") as file:  # the machine went down while writing
        file.write(_receipt("b").to_json()[:20].encode())
    store.add_receipt(_receipt("c"))
    assert set(store.receipts()) == {"a", "c"}


def _append_many(path: Path, name: str) -> None:
    for i in range(50):
        append_line(path, f"{name}{i}")


def test_appends_of_two_processes_dont_mix(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = path.read_text().split()
    assert sorted(lines) == sorted(f"{name}{i}" for name in "ab" for i in range(50))


def test_current_keys(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(WorkspaceError, match=r"nothing of 'h36m'.*none"):
        workspace.current("h36m")
    workspace.set_current("h36m", Current("a", "f"))
    assert workspace.current("h36m") == Current("a", "f")
    assert workspace.datasets() == ["h36m"]
    with pytest.raises(WorkspaceError, match="datasets there: h36m"):
        workspace.current("3dpw")


def test_stage_is_recorded_once(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    store.create({"models": "x"})
    store.create({"models": "x"})
    assert json.loads((tmp_path / "s" / "stage.json").read_text()) == {"models": "x"}


def test_newer_layout_is_refused(tmp_path: Path) -> None:
    write_atomically(tmp_path / "xycd-workspace.json", b'{"layout": 99}')
    with pytest.raises(WorkspaceError, match="layout 99"), Workspace(tmp_path).writing():
        pass


def test_free_bytes_of_a_folder_to_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0
