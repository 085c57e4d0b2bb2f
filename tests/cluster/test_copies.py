"""One copy a node, whoever asks, and none that nobody uses."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from pathlib import Path

import pytest

from cluster import copies
from cluster.config import StagingConfig
from cluster.copies import VARIABLE, CopyStore, StagingError, dask_setup
from tests.cluster.small_disk import mounted
from tests.etl.staging_processes import copy_half, run_to_the_end, use, wait_for

SIZE = 10_000
spawn = multiprocessing.get_context("spawn")


def copies_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".bin", ".part"))


def files(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    found = [folder / f"{i}.bin" for i in range(count)]
    for i, path in enumerate(found):
        path.write_bytes(bytes([i]) * SIZE)
    return found


def test_many_processes_make_one_copy(tmp_path: Path) -> None:
    (original,) = files(tmp_path / "raw", 1)
    log, until = tmp_path / "copies", tmp_path / "until"
    processes = [spawn.Process(target=use, args=(tmp_path / "scratch", original, log, until)) for _ in range(3)]
    for process in processes:
        process.start()
    wait_for(lambda: len(list(tmp_path.glob("*.ready"))) == 3)
    until.touch()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_threads_make_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals, store = files(tmp_path / "raw", 2), CopyStore(tmp_path / "scratch", 1 << 30, 0)
    made: Counter[str] = Counter()
    real = copies._copy

    def copy(source: int, target: Path) -> int:
        made[target.name] += 1
        return real(source, target)

    monkeypatch.setattr(copies, "_copy", copy)
    wrong: list[int] = []

    def read(i: int) -> None:
        for _ in range(20):
            with store.copy(originals[i % 2]) as path:
                if path.read_bytes() != originals[i % 2].read_bytes():
                    wrong.append(i)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(made.values()) == [1, 1]


def test_a_copier_that_is_killed_leaves_no_lock_and_no_half_copy(tmp_path: Path) -> None:
    (original,) = files(tmp_path / "raw", 1)
    scratch = tmp_path / "scratch"
    with CopyStore(scratch, 1 << 30, 0).copy(files(tmp_path / "other", 1)[0]):  # so that the folder isn't the dead's
        process = spawn.Process(target=copy_half, args=(scratch, original, tmp_path / "until"))
        process.start()
        wait_for((tmp_path / "half").exists)
        assert [path.suffix for path in copies_in(scratch)].count(".part") == 1
        process.kill()
        process.join()
        with CopyStore(scratch, 1 << 30, 0).copy(original) as path:
            assert path.read_bytes() == original.read_bytes()
        assert [path.suffix for path in copies_in(scratch)] == [".bin", ".bin"]


def test_copies_of_the_dead_are_removed_by_the_next(tmp_path: Path) -> None:
    (original,) = files(tmp_path / "raw", 1)
    scratch = tmp_path / "scratch"
    process = spawn.Process(target=use, args=(scratch, original, tmp_path / "log", tmp_path / "until"))
    process.start()
    wait_for(lambda: bool(list(tmp_path.glob("*.ready"))))
    process.kill()
    process.join()
    assert len(copies_in(scratch)) == 1
    CopyStore(scratch, 1 << 30, 0).close()
    assert not scratch.exists()


def test_the_last_one_removes_the_copies_in(tmp_path: Path) -> None:
    (original,) = files(tmp_path / "raw", 1)
    first, second = (CopyStore(tmp_path / "scratch", 1 << 30, 0) for _ in range(2))
    with first.copy(original):
        pass
    first.close()
    assert len(copies_in(tmp_path)) == 2  # the original, and the copy that the second may still want
    second.close()
    assert not (tmp_path / "scratch").exists()


def test_a_process_that_ends_removes_the_copies_in(tmp_path: Path) -> None:
    (original,) = files(tmp_path / "raw", 1)
    process = spawn.Process(target=run_to_the_end, args=(tmp_path / "scratch", original))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not list((tmp_path / "scratch").iterdir())


def originals_in(scratch: Path, originals: list[Path]) -> set[int]:
    held = {path.read_bytes() for path in copies_in(scratch)}
    return {i for i, original in enumerate(originals) if original.read_bytes() in held}


def test_those_not_used_for_longest_go_first(tmp_path: Path) -> None:
    originals, scratch = files(tmp_path / "raw", 5), tmp_path / "scratch"
    store = CopyStore(scratch, 3 * SIZE, 0)
    for i in (0, 1, 2, 0, 3):
        with store.copy(originals[i]):
            pass
    assert originals_in(scratch, originals) == {0, 2, 3}
    with store.copy(originals[2]), store.copy(originals[4]):
        assert originals_in(scratch, originals) == {2, 3, 4}


def test_copies_in_use_stay(tmp_path: Path) -> None:
    originals, scratch = files(tmp_path / "raw", 4), tmp_path / "scratch"
    store, other = (CopyStore(scratch, 2 * SIZE, 0) for _ in range(2))
    with store.copy(originals[0]) as oldest:
        for i in (1, 2):
            with other.copy(originals[i]):
                pass
        assert originals_in(scratch, originals) == {0, 2}
        with other.copy(originals[2]), pytest.raises(StagingError, match="no room"), other.copy(originals[3]):
            pass
        assert oldest.read_bytes() == originals[0].read_bytes()
    with pytest.raises(StagingError, match="limit"), CopyStore(scratch, SIZE - 1, 0).copy(originals[3]):
        pass


def test_room_is_left_on_the_disk(tmp_path: Path) -> None:
    originals = files(tmp_path / "raw", 3)
    with mounted(tmp_path / "disk", kib=64) as disk:
        store = CopyStore(disk / "scratch", 1 << 30, 40_000)
        for original in originals:
            with store.copy(original):
                pass
        assert 0 < len(copies_in(disk)) < 3
        tight = CopyStore(disk / "scratch", 1 << 30, 60_000)
        with pytest.raises(StagingError, match="no room"), tight.copy(originals[0]):
            pass


def test_a_jobs_nanny_is_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (original,) = files(tmp_path / "raw", 1)
    monkeypatch.delenv(VARIABLE, raising=False)
    dask_setup(None)  # nothing is staged, or it can't be: no reason to fail
    monkeypatch.setenv(VARIABLE, "$XYCD_NO_SUCH_VARIABLE")
    dask_setup(None)
    assert not (tmp_path / "scratch").exists()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "scratch"))
    dask_setup(None)
    nanny = CopyStore.of(StagingConfig(folder=str(tmp_path / "scratch")))
    process = spawn.Process(target=run_to_the_end, args=(tmp_path / "scratch", original))
    process.start()
    process.join()
    assert len(copies_in(tmp_path / "scratch")) == 1  # the next worker finds it
    nanny.close()
    assert not list((tmp_path / "scratch").iterdir())
