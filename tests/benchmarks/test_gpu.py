from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmpose", reason="needs the extra openmmlab")

from benchmarks import gpu
from tests.etl.models.openmmlab import MARKS

pytestmark = MARKS

HIDE = """
import importlib.util
import sys
HIDDEN = "pydantic xarray dask distributed av netCDF4 mmdet mmpose mmcv mmengine".split()
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] in HIDDEN else find(name, *rest)
from benchmarks import gpu
gpu.TIMED_S = 0.01
sys.exit(gpu.main(sys.argv[1:]))
"""
FEW = ["--device", "cpu", "--tiny", "--no-compile", "--batches", "1"]


def test_every_part_runs_with_tiny_networks_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "TIMED_S", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert gpu.main([*FEW, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left_out"] == []
    parts = {row["part"] for row in found["rows"]}
    assert parts == {"whole frames", "estimate, fp32", *gpu.TINY}
    values = {f"{row['part']}: {row['what']}": row["value"] for row in found["rows"]}
    assert all(value >= 0 for value in values.values())
    # The same network on the same device.
    assert values["depth-anything-v2-indoor-tiny: cpu against CPU: largest depth, cm"] == 0
    assert values["whole frames: against the CPU: median joint"] < 0.5
    assert values["depth-anything-v2-indoor-tiny: bf16: largest depth, cm"] > 0.1
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("\n|") == len(found["rows"]) + 2


def test_what_is_missing_is_named_and_costs_its_part_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HIDE, *FEW, "--out", str(tmp_path)]
    root = Path(gpu.__file__).parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["part"] for row in found["rows"]} == {"depth-anything-v2-indoor-tiny"}
    left_out = "\n".join(found["left_out"])
    assert "whole frames: No module named 'pydantic'" in left_out
    assert "rtmpose-t: " in left_out
    assert "rtmdet-nano-person: " in left_out


def test_no_part_begins_after_the_time_is_over(tmp_path: Path) -> None:
    assert gpu.main([*FEW, "--minutes", "0", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["rows"] == []
    assert found["left_out"] == [f"{part}: no time left" for part in ("whole frames", "runs", *gpu.TINY)]
