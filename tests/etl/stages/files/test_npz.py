from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import MergeError, WorkspaceError
from etl.stages.files.crc32 import combine_crc32
from etl.stages.files.npz import ArrayFolder, NpzWriter
from etl.stages.files.row_writer import Block, RowWriter

WRITERS = [NpzWriter, ArrayFolder]


def load(path):
    if path.is_dir():
        return {file.stem: np.load(file, allow_pickle=False) for file in path.iterdir()}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def example(rows: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "name": np.array([f"image {i}" for i in range(rows)]),
        "valid": rng.uniform(size=rows) < 0.5,
        "S": rng.normal(size=(rows, 17, 4)).astype(np.float32),
        "feats": rng.normal(size=(rows, 3)).astype(np.float16),
        "empty": np.zeros((rows, 0), np.int32),
    }


def shapes(arrays):
    return {key: (array.shape, array.dtype) for key, array in arrays.items()}


@pytest.mark.parametrize("writer_class", WRITERS)
def test_rows_in_any_order_and_a_late_array_come_back(tmp_path, writer_class):
    arrays, path = example(), tmp_path / "new" / "out.npz"
    with writer_class(path, shapes(arrays)) as writer:
        for rows in (slice(4, 7), slice(0, 1), slice(1, 4)):
            for key, array in arrays.items():
                writer.write(key, rows.start, array[rows])
        writer.append("metadata", np.array('{"a": 1}'))
        assert not path.exists()
    found = load(path)
    assert list(found)[:1] == ["name"] or writer_class is ArrayFolder
    assert str(found.pop("metadata")) == '{"a": 1}'
    assert set(found) == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array, strict=True)
    assert [p.name for p in path.parent.iterdir()] == ["out.npz"]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_npz_of_any_shapes_equals_numpys(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("npz")
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    arrays = {}
    for i in range(data.draw(st.integers(1, 4))):
        shape = data.draw(st.lists(st.integers(0, 5), min_size=0, max_size=3))
        dtype = data.draw(st.sampled_from(["f4", "f2", "i4", "?", "<U5"]))
        arrays[f"ключ{i}"] = rng.integers(0, 100, shape).astype(dtype)
    with NpzWriter(folder / "ours.npz", shapes(arrays)) as writer:
        for key, array in arrays.items():
            cut = data.draw(st.integers(0, len(array))) if array.ndim else 0
            writer.write(key, cut, array[cut:] if array.ndim else array)
            if cut:
                writer.write(key, 0, array[:cut])
    np.savez(folder / "numpys.npz", **arrays)
    with zipfile.ZipFile(folder / "ours.npz") as ours, zipfile.ZipFile(folder / "numpys.npz") as numpys:
        assert ours.testzip() is None
        assert ours.namelist() == numpys.namelist()
        assert all(ours.read(name) == numpys.read(name) for name in ours.namelist())


def test_other_zip_tools_accept_it(tmp_path):
    unzip = shutil.which("unzip")
    command = [unzip, "-tq"] if unzip else [sys.executable, "-m", "zipfile", "-t"]
    arrays = example()
    with NpzWriter(tmp_path / "out.npz", shapes(arrays)) as writer:
        for key, array in arrays.items():
            writer.write(key, 0, array)
    done = subprocess.run([*command, str(tmp_path / "out.npz")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_arrays_of_an_npz_can_be_mapped(tmp_path):
    arrays = example()
    with NpzWriter(tmp_path / "out.npz", shapes(arrays)) as writer:
        member = writer.members["S"]
        for key, array in arrays.items():
            writer.write(key, 0, array)
    assert member.offset % 64 == 0
    mapped = np.memmap(tmp_path / "out.npz", member.dtype, "r", member.offset, member.shape)
    np.testing.assert_array_equal(mapped, arrays["S"])


def test_arrays_beyond_4_gib(tmp_path):
    size, crc, length = 5 * 2**30, zlib.crc32(bytes(2**20)), 2**20
    zeros = crc
    while length < size:  # the file is sparse: its zeros are neither written nor read
        zeros, length = combine_crc32(zeros, crc, 2**20), length + 2**20
    with NpzWriter(tmp_path / "out.npz", {"big": ((size,), "u1"), "small": ((3,), "i4")}) as writer:
        writer.record([Block("big", 0, size, zeros)])
        writer.write("small", 0, np.arange(3, dtype=np.int32))
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert archive.getinfo("big.npy").file_size == 128 + size
        assert archive.getinfo("small.npy").header_offset > 2**32
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["small"].tolist() == [0, 1, 2]


def test_a_damaged_byte_is_noticed_on_reading(tmp_path):
    arrays = {"a": np.zeros(1000)}
    with NpzWriter(tmp_path / "out.npz", shapes(arrays)) as writer:
        writer.write("a", 0, arrays["a"])
        offset = writer.members["a"].offset
    with (tmp_path / "out.npz").open("rb+") as file:
        file.seek(offset + 100)
        file.write(b"x")
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        load(tmp_path / "out.npz")


def write_rows(members, key, start, values):
    with RowWriter(members) as rows:
        return os.getpid(), rows.write(key, start, values)


@pytest.mark.parametrize("writer_class", WRITERS)
def test_several_processes_write_one_file(tmp_path, writer_class):
    values = np.arange(40.0).reshape(20, 2)
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
        writer_class(tmp_path / "out", {"a": (values.shape, values.dtype)}) as writer,
    ):
        parts = [pool.submit(write_rows, writer.members, "a", i, values[i : i + 5]) for i in (15, 0, 10, 5)]
        for part in parts:
            process, block = part.result()
            assert process != os.getpid()
            writer.record([block])
    np.testing.assert_array_equal(load(tmp_path / "out")["a"], values)


def test_bytes_are_copied_from_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr("etl.stages.files.row_writer._PIECE", 7)
    values = np.arange(40.0).reshape(20, 2)
    (tmp_path / "source").write_bytes(b"head" + values.tobytes())
    with NpzWriter(tmp_path / "out.npz", {"a": (values.shape, values.dtype)}) as writer:
        with RowWriter(writer.members) as rows:
            rows.copy_behind("a", 12, 8, tmp_path / "source", 4 + 12 * 16)
            rows.copy_behind("a", 0, 12, tmp_path / "source", 4)
            writer.record(rows.blocks())
        with RowWriter(writer.members) as rows:
            rows.copy_behind("a", 12, 8, tmp_path / "source", 4 + 13 * 16)
            with pytest.raises(MergeError, match="source: it ends at byte 324, before 340"):
                rows.blocks()
            with pytest.raises(ValueError, match="rows 13 to 21 don't fit"):
                rows.copy("a", 13, 8, tmp_path / "source", 4)
            rows.copy("a", 12, 8, tmp_path / "source", 4 + 12 * 16)
    np.testing.assert_array_equal(load(tmp_path / "out.npz")["a"], values)  # whose checksum is verified


@pytest.mark.parametrize("writer_class", WRITERS)
@pytest.mark.parametrize("rows", [[(0, 2)], [(0, 4), (3, 5)], [(1, 5)], []])
def test_rows_that_are_missing_or_written_twice_are_an_error(tmp_path, writer_class, rows):
    writer = writer_class(tmp_path / "out", {"a": ((5,), "f4")})
    for start, stop in rows:
        writer.write("a", start, np.zeros(stop - start, np.float32))
    with pytest.raises(ValueError, match="exactly once"):
        writer.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "start", "values"),
    [
        ("a", 4, np.zeros((2, 2), "f4")),
        ("a", -1, np.zeros((1, 2), "f4")),
        ("a", 0, np.zeros((1, 3), "f4")),
        ("a", 0, np.zeros((1, 2), complex)),
        ("t", 0, np.array(["long text"])),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path, key, start, values):
    arrays = {"a": np.zeros((5, 2), "f4"), "t": np.array(["ab", "abc"])}
    with NpzWriter(tmp_path / "a", shapes(arrays)) as writer:
        with pytest.raises(ValueError, match="fit"):
            writer.write(key, start, values)
        for name, array in arrays.items():
            writer.write(name, 0, array)


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="objects"):
        NpzWriter(tmp_path / "a", {"a": ((5,), object)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer_class", WRITERS)
def test_an_error_leaves_the_old_result_and_nothing_else(tmp_path, writer_class):
    path = tmp_path / "out"
    for value, fails in ((1.0, False), (2.0, True), (3.0, False)):
        try:
            with writer_class(path, {"a": ((3,), "f8")}) as writer:
                writer.write("a", 0, np.full(3, value))
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            value = 1.0
        assert load(path)["a"].tolist() == [value] * 3
        assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "thesis.tex").touch()
    with pytest.raises(WorkspaceError, match="may be replaced"), ArrayFolder(path, {"a": ((1,), "f8")}) as writer:
        writer.write("a", 0, np.zeros(1))
    assert [p.name for p in path.iterdir()] == ["thesis.tex"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("writer_class", WRITERS)
def test_leftovers_of_a_killed_process_go(tmp_path, writer_class):
    code = (
        "import os, sys, pathlib, numpy; from etl.stages.files.npz import *\n"
        f"w = {writer_class.__name__}(pathlib.Path(sys.argv[1]), {{'a': ((3,), 'f8')}})\n"
        "w.write('a', 0, numpy.ones(1))\n"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "out"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.endswith(".partial")
    with writer_class(path, {"a": ((1,), "f8")}) as writer:
        writer.write("a", 0, np.zeros(1))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_whose_replacement_was_killed_halfway_comes_back(tmp_path, again):
    path = tmp_path / "out"
    with ArrayFolder(path, {"a": ((3,), "f8")}) as writer:
        writer.write("a", 0, np.ones(3))
    code = (
        "import os, sys, pathlib, numpy; from etl.stages.files.npz import *\n"
        "ArrayWriter._replace = lambda self: os.kill(os.getpid(), 9)  # the second of the two renames\n"
        "with ArrayFolder(pathlib.Path(sys.argv[1]), {'a': ((3,), 'f8')}) as writer:\n"
        "    writer.write('a', 0, numpy.zeros(3))"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert not path.exists()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".old", ".partial"]
    writer = ArrayFolder(path, {"a": ((3,), "f8")})
    assert load(path)["a"].tolist() == [1, 1, 1]  # at once, whatever becomes of the new one
    if again:
        writer.write("a", 0, np.full(3, 2.0))
        writer.__exit__(None, None, None)
    else:
        writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert load(path)["a"].tolist() == [2.0 if again else 1.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_goes_where_the_new_one_is_in_place(tmp_path):
    path = tmp_path / "out"
    old = tmp_path / ".out.old"
    for folder in (path, old):
        folder.mkdir()
    with ArrayFolder(path, {"a": ((1,), "f8")}) as writer:
        assert not old.exists()
        writer.write("a", 0, np.zeros(1))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("writer_class", WRITERS)
def test_a_full_disk_is_said_beforehand(tmp_path, writer_class, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 1000))
    with pytest.raises(WorkspaceError, match=r"needs 0\.00 GB"):
        writer_class(tmp_path / "out", {"a": ((1000,), "f8")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer_class", WRITERS)
def test_a_disk_that_fills_up_meanwhile(tmp_path, writer_class, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    writer = writer_class(tmp_path / "out", {"a": ((9,), "f8")})
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(WorkspaceError, match="No space left") as error:
        writer.write("a", 0, np.zeros(9))
    writer.__exit__(error.type, error.value, error.tb)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match="parent is a folder"):
        NpzWriter(tmp_path / "file" / "out.npz", {"a": ((1,), "f8")})
    (tmp_path / "folder").mkdir()
    with pytest.raises(WorkspaceError), NpzWriter(tmp_path / "folder", {"a": ((1,), "f8")}) as writer:
        writer.write("a", 0, np.zeros(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
