"""Code that all miniature datasets share: claim a folder, render sequences in processes, place people.

Beside its raw files a miniature holds ``truth/<release's path>.npz`` (etl.demo.recording) and ``xycd-demo.json``, which
says what the folder is and, once it is complete, lists its files.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cluster.processors import cores
from etl.demo.body import style_of
from etl.demo.figure import Skeleton
from etl.demo.motions import MOTIONS
from etl.demo.scene import Actor
from etl.errors import ConfigError
from schemas.keys import SequenceKey

Floats = NDArray[np.floating[Any]]
Progress = Callable[[int, int], None]

MARKER: Final = "xycd-demo.json"
VERSION: Final = 3


@dataclass(frozen=True)
class Plan(ABC):
    """Plan of a rendered dataset. All fields are JSON-ready.

    Parameters
    ----------
    frames : int
        Poses of each sequence.
    scale : float
        Of the images: 1 gives the release's sizes.
    """

    dataset: ClassVar[str]
    choices: ClassVar[Mapping[str, Sequence[Any]]]
    """By the name of each field that has a choice: what there is to choose from."""

    frames: int
    scale: float

    @abstractmethod
    def sequences(self) -> list[SequenceKey]:
        """All sequences; those of one camera are neighbours, so that its rays are used again."""

    def video_frames(self, key: SequenceKey) -> int:
        """Images of a sequence, which may be more or fewer than its poses."""
        return self.frames

    @abstractmethod
    def record(self, folder: Path, key: SequenceKey) -> None:
        """Render one sequence, and write its media and its truth; other processes call it."""

    def finish(self, folder: Path) -> None:  # noqa: B027  not every dataset has such files
        """Write what sequences share, after them."""


def check(plan: Plan) -> None:
    """Raise ConfigError, which names the field, for what can't be rendered."""
    for name, allowed in plan.choices.items():
        chosen = getattr(plan, name)
        wrong = [value for value in chosen if value not in allowed]
        if wrong or not chosen:
            rule = f"The miniature's {name} are among {', '.join(map(str, allowed))}."
            raise ConfigError(rule, str(wrong or "none"), "Choose among them.")
    if plan.frames < 1 or not 0.01 <= plan.scale <= 4:
        rule = "The miniature has at least 1 frame a sequence and a scale from 0.01 to 4."
        raise ConfigError(rule, f"frames {plan.frames}, scale {plan.scale}", "Change them.")


def render(folder: Path, plan: Plan, *, workers: int | None = None, progress: Progress | None = None) -> None:
    """Render a miniature below `folder`; does nothing where it is already complete.

    The same plan gives the same data, however many workers render it.

    Parameters
    ----------
    folder : Path
        Empty, absent, or the same miniature, finished or not.
    plan : Plan
        What is rendered: that of etl.demo.human36m, threedpw, mpi_inf_3dhp or fit3d.
    workers : int, optional
        Processes; by default one a core. With 1 nothing is started: the calling process renders.
    progress : callable, optional
        Called with the frames that are rendered and those that will be, after each sequence.

    Raises
    ------
    etl.errors.ConfigError
        When the plan can't be rendered or `folder` holds anything else.
    """
    check(plan)
    if _claim(folder, plan):
        return
    keys = plan.sequences()
    total, done = sum(map(plan.video_frames, keys)), 0
    for key in _record_all(folder, plan, keys, min(workers or cores(), len(keys))):
        done += plan.video_frames(key)
        if progress is not None:
            progress(done, total)
    plan.finish(folder)
    _finish(folder, plan)


def act(person: str, motion: str, seconds: float, phase: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Actor:
    """A person, in their own style, so many seconds after the beginning of one of etl.demo.motions.MOTIONS.

    `phase` is where in the motion the person begins, in cycles, beside that of the style. `shift` is where in the room
    the motion's middle is, metres.
    """
    style = style_of(person)
    pose = MOTIONS[motion](seconds, style.phase + phase)
    return Actor(replace(pose, place=(pose.place[0] + shift[0], pose.place[1] + shift[1])), style)


def joints_of(
    actors: Iterable[Actor], which: Callable[[Skeleton], Floats] = lambda skeleton: skeleton.h36m
) -> NDArray[np.float64]:
    """World coordinates (F, J, 3) in metres of people's joints, H36M_17 if `which` doesn't say others."""
    return np.stack([actor.to_world(which(actor.skeleton)) for actor in actors]).astype(np.float64)


def _record_all(folder: Path, plan: Plan, keys: list[SequenceKey], workers: int) -> Iterator[SequenceKey]:
    """Record all sequences; yield each when it is done."""
    if workers == 1:
        for key in keys:
            plan.record(folder, key)
            yield key
        return
    # Not fork: the caller may have threads, whose locks a fork would copy as they are.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = {pool.submit(plan.record, folder, key): key for key in keys}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:  # after Ctrl-C, or a sequence that failed, the others needn't be rendered
            pool.shutdown(cancel_futures=True)


def _description(plan: Plan) -> dict[str, Any]:
    return {"version": VERSION, "dataset": plan.dataset, "plan": json.loads(json.dumps(asdict(plan)))}


def _claim(folder: Path, plan: Plan) -> bool:
    """Take the folder for this miniature; true if it is complete already."""
    marker, mine = folder / MARKER, _description(plan)
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        files = found.pop("files", {})
        if found != mine:
            raise ConfigError(
                f"{folder} holds the miniature that is asked for.",
                f"{found.get('dataset')} with {json.dumps(found.get('plan'))}, version {found.get('version')}",
                "Remove the folder, or choose another.",
            )
        return bool(files) and files == _sizes(folder, files)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is empty or a rendered miniature.", "other files", "Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(mine | {"files": {}}), encoding="utf-8")
    return False


def _finish(folder: Path, plan: Plan) -> None:
    """Record all files, whose presence says that the folder is complete."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.name != MARKER]
    temporary = folder / f"{MARKER}.{os.getpid()}"
    temporary.write_text(json.dumps(_description(plan) | {"files": _sizes(folder, names)}, indent=1), encoding="utf-8")
    temporary.replace(folder / MARKER)


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of those files that exist."""
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
