from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from etl.datasets import checks
from etl.errors import DatasetError

FILE = Path("some/file.x")


@pytest.mark.parametrize(
    ("array", "shape", "options"),
    [
        (np.zeros((1, 5, 64), np.float32), (1, "F", 64), {}),
        (np.zeros((3, 3)), ("N", "N"), {}),
        (np.array(2.0), (), {}),
        (np.array([1, 2]), (2,), {"dtype": "int"}),
        (np.array([1, 2]), ("F",), {"dtype": "number"}),
        (np.array([np.nan]), (1,), {"finite": False}),
        ([[1.0, 2.0]], (1, 2), {}),
    ],
)
def test_arrays_that_fit_pass(array: Any, shape: tuple[int | str, ...], options: dict[str, Any]) -> None:
    assert np.array_equal(checks.require_array(FILE, "x", array, shape, **options), array, equal_nan=True)


@pytest.mark.parametrize(
    ("array", "shape", "options", "message"),
    [
        (np.zeros((1, 5, 63)), (1, "F", 64), {}, r"\(1, 5, 63\)\. .*shape \(1, F, 64\)"),
        (np.zeros((5, 64)), (1, "F", 64), {}, r"^\(5, 64\)\."),
        (np.zeros((0, 64)), ("F", 64), {}, r"^\(0, 64\)\."),
        (np.zeros((3, 4)), ("N", "N"), {}, r"shape \(N, N\)"),
        (np.zeros(3, np.int32), (3,), {}, r"int32.* kind float\."),
        (np.zeros(3), (3,), {"dtype": "int"}, r"float64.* kind int\."),
        (np.array(["a"]), (1,), {"dtype": "number"}, "kind number"),
        (np.array([0, 2]), (2,), {"dtype": "bool"}, "2.* 0 or 1 everywhere"),
        (np.array([0, np.inf, np.nan]), (3,), {}, r"2 values that aren't, the first \(inf\) at \(1,\)"),
        ([[1.0], [1.0, 2.0]], ("F", 2), {}, "ragged"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    array: Any, shape: tuple[int | str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        checks.require_array(FILE, "x", array, shape, **options)
    assert str(FILE) in caught.value.rule
    assert "'x'" in caught.value.rule


def test_numbers_that_are_booleans_become_booleans() -> None:
    got = checks.require_array(FILE, "x", np.array([0.0, 1.0]), (2,), dtype="bool")
    assert got.dtype == bool
    assert got.tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "found"),
    [("Direction", "Directions"), ("directions", "Directions"), ("sitting", "Sitting"), ("zzz", None)],
)
def test_nearest(name: str, found: str | None) -> None:
    assert checks.nearest(name, ["Directions", "Sitting", "SittingDown"]) == found


def test_known_names_pass() -> None:
    checks.require_known("subject", None, ["S1"])
    checks.require_known("subject", ["S1"], ["S1", "S2"])
    with pytest.raises(DatasetError, match="Use one of S1, S2"):
        checks.require_known("subject", ["nobody"], ["S1", "S2"])


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "Pose.cdf").write_bytes(b"abc")
    assert checks.require_file(tmp_path / "Pose.cdf") == tmp_path / "Pose.cdf"
    assert checks.require_folder(tmp_path, "things") == tmp_path
    with pytest.raises(DatasetError, match=r"'Pose\.cdf' beside it"):
        checks.require_file(tmp_path / "pose.cdf")
    with pytest.raises(DatasetError, match="3 bytes"):
        checks.require_file(tmp_path / "Pose.cdf", smallest=4)
    with pytest.raises(DatasetError, match="a folder"):
        checks.require_file(tmp_path)
    with pytest.raises(DatasetError, match="a file"):
        checks.require_folder(tmp_path / "Pose.cdf", "things")


def test_files_of_others_need_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metadata.json"
    path.write_text("{}")

    def refuse(self: Path) -> bytes:  # as the system does, but root may read everything
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DatasetError, match="permission denied") as caught:
        checks.read_json(path)
    assert "owner" in caught.value.fix


READERS: dict[str, Any] = {
    "cdf": lambda path: checks.read_cdf(path, "Pose"),
    "json": checks.read_json,
    "xml": checks.read_xml,
    "mat": lambda path: checks.read_mat(path, ["a"]),
    "hdf5": lambda path: checks.read_hdf5(path, ["a"]),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff" * 500, b"plain text", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" + b"\0" * 100, b"MATLAB 5.0" * 50],
)
def test_any_content_gives_an_error_that_names_the_file(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "raw"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        READERS[kind](path)
    assert str(path) in caught.value.rule
    with pytest.raises(DatasetError, match="no such file"):
        READERS[kind](tmp_path / "none")


@pytest.mark.parametrize("kind", ["mat", "hdf5"])
def test_truncated_files_are_refused_and_whole_ones_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "raw"
    values = np.random.default_rng(0).normal(size=(50, 7))
    if kind == "mat":
        scipy.io.savemat(path, {"a": values, "b": values}, appendmat=False)
    else:
        with h5py.File(path, "w") as file:
            file["a"] = values
            file.create_group("group")
    assert np.array_equal(READERS[kind](path)["a"], values)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(DatasetError):
        READERS[kind](path)


def test_an_absent_variable_names_those_there_are(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"annot2": np.zeros(3)})
    with pytest.raises(DatasetError, match="only annot2; nearest is 'annot2'"):
        checks.read_mat(tmp_path / "a.mat", ["annot3"])


def test_a_declared_size_is_checked_before_reading(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (1 << 40,), dtype="f8", chunks=(1 << 20,))
        file.create_group("g")
    with pytest.raises(DatasetError, match=r"8192\.0 GiB"):
        checks.read_hdf5(tmp_path / "a.h5", ["a"])
    with pytest.raises(DatasetError, match="must be a dataset"):
        checks.read_hdf5(tmp_path / "a.h5", ["g"])


def test_json_and_xml_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, 2]}))
    (tmp_path / "a.xml").write_text('<?xml version="1.0"?><a><b>text</b></a>')
    assert checks.read_json(tmp_path / "a.json") == {"a": [1, 2]}
    assert checks.read_xml(tmp_path / "a.xml").findtext("b") == "text"


def test_external_entities_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    text = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]><a>&x;</a>'
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DatasetError, match="Entities"):
        checks.read_xml(tmp_path / "a.xml")
