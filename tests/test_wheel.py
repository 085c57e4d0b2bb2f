"""The wheel, installed alone into a fresh environment, runs the demo; versions agree wherever they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import xycd

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without the paths of this checkout; its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "xycd",
        "etl",
        "cluster",
        "schemas",
    }
    modules = {str(path.relative_to(ROOT)) for name in ("xycd", "etl") for path in (ROOT / name).rglob("*.py")}
    assert modules <= set(names)
    assert "etl/report/templates/report.html.j2" in names


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(wheel: Path, tmp_path: Path, embedded_weights: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    run(programs / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel, cwd=tmp_path)
    version = run(programs / "python", "-c", "import xycd; print(xycd.__version__, xycd.run.__module__)", cwd=tmp_path)
    assert version.split() == [xycd.__version__, "etl.pipeline"]
    run(programs / "xycd", "demo", "demo", "--dataset", "fit3d", "--frames", "4", cwd=tmp_path)
    assert list((tmp_path / "demo" / "workspace" / "training").glob("fit3d_xycd_*.npz"))


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.M) == [xycd.__version__]
