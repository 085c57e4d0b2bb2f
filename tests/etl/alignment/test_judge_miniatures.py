"""The judge on all four miniatures, with a detector's errors and long enough to tell times: none has a fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etl import pipeline
from etl.alignment import judge
from etl.config import load
from etl.demo.miniature import render
from etl.demo.run import MINIATURES
from etl.store.workspace import Workspace

# Small, and long enough for times to be told: next to the unusable frames of 3DHP's test set, motion can't be compared.
PLANS: dict[str, dict[str, Any]] = {
    "h36m": {"frames": 48, "scale": 0.2, "subjects": ("S1", "S9")},
    "3dpw": {"frames": 48, "scale": 0.15},
    "3dhp": {"frames": 80, "scale": 0.12},
    "fit3d": {"frames": 48, "scale": 0.25},
}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", sorted(MINIATURES))
def test_no_fault_in_a_clean_miniature(dataset: str, tmp_path: Path) -> None:
    miniature = MINIATURES[dataset]
    render(tmp_path / "raw", replace(miniature.plan, **PLANS[dataset]), workers=2)
    config = load(
        None,
        {
            "workspace": str(tmp_path / "work"),
            "datasets": {dataset: {"root": str(tmp_path / "raw"), **miniature.settings}},
            "models": {"set": "tests.etl.noisy:build", "options": {"folder": str(tmp_path / "raw")}},
            "cluster": {"workers": 2},
        },
    )
    (summary,) = pipeline.run(config)
    assert summary.outputs, summary.text()
    current = Workspace(config.workspace).current(dataset)
    assert current.features is not None
    path = config.workspace / dataset / judge.FILE
    verdicts = judge.read_verdicts(path, annotations=current.annotations, features=current.features)
    assert len(verdicts) == summary.sequences - unlabelled(dataset)
    assert judge.not_judged(verdicts) == []
    assert [str(v) for v in judge.faulty(verdicts)] == []
    assert all(0.005 < v.error < 0.05 for v in verdicts)
    # Every sequence is long enough for its times to be told, if it moves enough.
    reasons = [reason for v in verdicts for fault, reason in v.untold.items() if fault in ("shift", "rate")]
    assert [reason for reason in reasons if "are needed" in reason] == []
    assert sum("shift" not in v.untold for v in verdicts) >= len(verdicts) / 2


def unlabelled(dataset: str) -> int:
    """Sequences of a miniature without ground truth."""
    return sum(key.subject == "s02" for key in MINIATURES[dataset].plan.sequences()) if dataset == "fit3d" else 0
