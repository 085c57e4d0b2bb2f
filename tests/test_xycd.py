"""`import xycd` gives the public API, and says so where another package hides one of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import etl
import xycd


def test_names_are_those_of_etl() -> None:
    assert set(xycd.__all__) == set(etl.__all__)
    assert all(getattr(xycd, name) is getattr(etl, name) for name in xycd.__all__)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_sesame'"):
        _ = xycd.open_sesame


@pytest.mark.parametrize("name", ["etl", "cluster", "schemas"])
@pytest.mark.parametrize("form", ["package", "module"])
def test_another_package_that_hides_ours_is_named(name: str, form: str, tmp_path: Path) -> None:
    other = tmp_path / name / "__init__.py" if form == "package" else tmp_path / f"{name}.py"
    other.parent.mkdir(exist_ok=True)
    other.touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(xycd.__file__).parents[1])!r}]; import xycd"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ImportError: The package '{name}' that Python finds is not xycd's: {tmp_path}")
    assert "Remove or rename the other one" in message
