"""Small miniatures of the datasets, rendered once a session, and their settings for the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl.config import Config, load
from etl.demo import fit3d, human36m, miniature, mpi_inf_3dhp, threedpw

FRAMES = 7


@dataclass(frozen=True)
class Miniature:
    """How a dataset is rendered for tests, and how it is configured."""

    plan: miniature.Plan
    settings: dict[str, Any]


MINIATURES = {
    "h36m": Miniature(
        human36m.Plan(subjects=("S1", "S9"), actions=("Walking",), frames=FRAMES, scale=0.25), {"hz": 50}
    ),
    "3dpw": Miniature(threedpw.Plan(frames=FRAMES, scale=0.2), {}),
    "3dhp": Miniature(mpi_inf_3dhp.Plan(frames=FRAMES, scale=0.15), {"cameras": ["0", "4"]}),
    "fit3d": Miniature(fit3d.Plan(subjects=("s03", "s04", "s10"), frames=FRAMES, scale=0.3), {"hz": 25}),
}


def render(name: str, folder: Path) -> Path:
    """Render a dataset's miniature below `folder`, unless it is there; gives its root."""
    miniature.render(folder / name, MINIATURES[name].plan, workers=1)
    return folder / name


def configure(name: str, root: Path, work: Path, **changes: Any) -> Config:
    """The truth as models; several partitions a sequence."""
    values = {
        "workspace": str(work),
        "datasets": {name: {"root": str(root), **MINIATURES[name].settings}},
        "models": {"set": "etl.demo.truth:build", "options": {"folder": str(root)}},
        "estimate": {"partition_frames": 4},
        "cluster": {"workers": 1},
    }
    return load(None, values, changes)
