"""Small miniatures of the datasets, rendered once a session, and their settings for the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etl.config import Config, load
from etl.demo import fit3d, human36m, miniature, mpi_inf_3dhp, threedpw
from etl.demo.run import Miniature
from etl.demo.scene import Actor, Picture, Scene
from schemas.camera import Camera
from schemas.keys import SequenceKey

FRAMES = 7


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


def frames_of(key: SequenceKey, camera: Camera, count: int) -> Iterator[tuple[Actor, Picture]]:
    """Actor and picture of each of the first `count` frames of a sequence of Human3.6M."""
    scene = Scene(camera)
    for number in range(count):
        actor = human36m.actor_at(key.subject, key.action, key.subaction, number)
        yield actor, scene.render(actor)
