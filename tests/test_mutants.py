"""The driver of mutants, on a room of two functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import report, wrap_in_trampoline

CODE = """\
def add(a, b):
    return a + b


def twice(a):
    return a * 2


def forgotten(a):
    return a - 1
"""
TESTS = """\
from room import add, twice


def test_add():
    assert add(2, 1) == 3


def test_twice():
    assert twice(2) == 4  # as 2 ** 2
"""


def test_killed_survivors_and_what_no_test_reaches_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("mutmut")
    for name, content in {
        "room/__init__.py": CODE,
        "tests/__init__.py": "",
        "tests/room/test_room.py": TESTS,
        "tests/mutants.py": (Path(__file__).parent / "mutants.py").read_text(encoding="utf-8"),
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow', 'slurm', 'openmmlab', 'browser']\n"
        "[tool.mutmut]\nsource_paths = ['room']\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "tests.mutants", "room"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "room.x_twice__mutmut_1 killed" not in ran.stdout
    assert "+ return a + 1" in ran.stdout
    *_, last = ran.stdout.splitlines()
    # a + b: a - b. a * 2: a / 2, a * 3. a - 1: a + 1, a - 2.
    assert last.split() == ["room", "3", "killed", "0", "survived", "2", "not", "reached", "60.0%"]
    assert (tmp_path / "room" / "__init__.py").read_text(encoding="utf-8") == CODE


@pytest.mark.parametrize(("killed", "survived", "status"), [(9, 1, 0), (89, 11, 1), (0, 0, 0)])
def test_rooms_below_90_percent_fail(killed: int, survived: int, status: int) -> None:
    fates = ["killed"] * killed + ["survived", "not reached"] * (survived // 2) + ["survived"] * (survived % 2)
    assert report(Path("room"), {str(i): (Path("room/a.py"), fate) for i, fate in enumerate(fates)}) == status


def test_calls_go_to_the_active_mutant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def x_half__mutmut_orig(value: float) -> float:
        return value / 2

    def x_half__mutmut_1(value: float) -> float:
        return value * 2

    mutants = {"_mutmut_orig": x_half__mutmut_orig, "x_half__mutmut_1": x_half__mutmut_1}
    half = wrap_in_trampoline(mutants)(x_half__mutmut_orig)
    assert half(4) == 2
    monkeypatch.setenv("XYCD_MUTANT", f"{__name__}.x_half__mutmut_1")
    assert half(4) == 8
    monkeypatch.setenv("XYCD_MUTANT", "elsewhere.x_half__mutmut_1")
    assert half(4) == 2
    monkeypatch.setenv("XYCD_REACHED", str(tmp_path / "reached"))
    half(4)
    function, _, test = (tmp_path / "reached").read_text(encoding="utf-8").partition("\t")
    assert function == f"{__name__}.x_half"
    assert test.endswith("test_calls_go_to_the_active_mutant (call)\n")
