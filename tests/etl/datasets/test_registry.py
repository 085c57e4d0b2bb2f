from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etl.datasets import registry
from etl.datasets.human36m.reader import Human36M
from etl.errors import DatasetError


def test_a_reader_is_built_with_its_options(tmp_path: Path) -> None:
    reader = registry.build("h36m", tmp_path, hz=10, subjects=("S1",))
    assert reader == Human36M(tmp_path, hz=10, subjects=("S1",))
    assert registry.build("folder", tmp_path).name == "folder"


@pytest.mark.parametrize("name", sorted(registry.READERS))
def test_every_reader_has_its_name(tmp_path: Path, name: str) -> None:
    pytest.importorskip(registry.READERS[name].partition(":")[0], exc_type=ModuleNotFoundError)
    assert registry.build(name, tmp_path).name == name


def test_unknown_names_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Did you mean 'h36m'"):
        registry.build("h3.6m", tmp_path)
    with pytest.raises(TypeError, match="rate"):
        registry.build("h36m", tmp_path, rate=5)


def test_readers_are_imported_when_asked_for() -> None:
    code = "import sys, etl.datasets.registry; print([m for m in sys.modules if m.startswith('etl.datasets.human')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
