"""The comparison of workspaces finds what differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.compare_workspaces import differences, main


def write(folder: Path, name: str = "a.npz", **arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder


def test_equal_workspaces_do_not_differ(tmp_path: Path) -> None:
    arrays = {"x": np.array([1.0, np.nan]), "names": np.array(["a", "b"])}
    old, new = (write(tmp_path / name, **arrays, metadata=np.array(name)) for name in ("old", "new"))
    assert main(old, new) == 0


def test_differences_are_named(tmp_path: Path) -> None:
    old = write(tmp_path / "old", x=np.zeros(2), y=np.zeros(3), z=np.zeros(1))
    new = write(tmp_path / "new", x=-np.zeros(2), y=np.zeros(3, np.float32), w=np.zeros(1))
    write(new, "b.npz")
    found = "\n".join(differences(old, new))
    assert all(text in found for text in ("b.npz", "['w', 'z']", "x differs", "y differs"))
    assert main(old, new) == 1


def test_nothing_to_compare_is_no_success(tmp_path: Path) -> None:
    assert main(tmp_path, tmp_path) == 1
