"""Tables about features: a summary by group, read file by file in bounded memory; and one line a frame and joint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etl.results.reading import Block, Layout, status_names
from schemas.features import Status
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17

if TYPE_CHECKING:
    from etl.results.features import Features

Array = NDArray[Any]

SEQUENCE: Final = ("subject", "action", "subaction", "camera")
GROUPS: Final = ("sequence", "action", "subject", "camera", "split", "joint")
JOINTS: Final = len(H36M_17.joints)

# Errors are counted in bins of 1 %, so that their median needs no list of them all.
_LEAST, _STEP = 0.01, np.log(1.01)
_BINS: Final = int(np.ceil(np.log(1e6) / _STEP)) + 2


def _zeros() -> Array:
    return np.zeros(JOINTS)


@dataclass
class _Tally:
    """Sums over the rows of a group, for each joint."""

    sequences: dict[SequenceKey, Array] = field(default_factory=dict)  # joints that it has
    rows: int = 0
    ok_rows: int = 0
    frames: Array = field(default_factory=_zeros)
    ok: Array = field(default_factory=_zeros)
    confidence: Array = field(default_factory=_zeros)
    least: Array = field(default_factory=lambda: np.full(JOINTS, np.inf))
    greatest: Array = field(default_factory=lambda: np.full(JOINTS, -np.inf))
    error: Array = field(default_factory=_zeros)
    compared: Array = field(default_factory=_zeros)
    errors: Array = field(default_factory=lambda: np.zeros((1, _BINS), np.int64))

    def add(self, block: Block, layout: Layout, by_joint: bool) -> None:
        """Count the rows of a file."""
        ok = block.arrays["status"] == Status.OK
        there = block.chosen.max(axis=0, initial=False)
        self.sequences[block.source.key] = self.sequences.get(block.source.key, False) | there
        self.rows += len(ok)
        self.ok_rows += int(ok.sum())
        chosen = block.chosen & ok[:, None]
        self.frames += block.chosen.sum(axis=0)
        self.ok += chosen.sum(axis=0)
        confidence, depth = (block.arrays["features"][..., layout.names.index(n)] for n in ("confidence", "depth"))
        self.confidence += np.where(chosen, confidence, 0).sum(axis=0, dtype=np.float64)
        valid = chosen & block.arrays["joint_valid"]
        self.least = np.minimum(self.least, np.where(valid, depth, np.inf).min(axis=0, initial=np.inf))
        self.greatest = np.maximum(self.greatest, np.where(valid, depth, -np.inf).max(axis=0, initial=-np.inf))
        error = block.arrays["error_px"]
        known = chosen & np.isfinite(error)
        self.error += np.where(known, error, 0).sum(axis=0)
        self.compared += known.sum(axis=0)
        bins = np.clip(np.log(np.maximum(error, 1e-9) / _LEAST) / _STEP + 1, 0, _BINS - 1)
        index = np.where(known, bins, 0).astype(np.intp)
        lines = JOINTS if by_joint else 1
        if self.errors.shape[0] != lines:
            self.errors = np.zeros((lines, _BINS), np.int64)
        index += (np.arange(JOINTS) * _BINS)[None] if by_joint else 0
        self.errors += np.bincount(index[known], minlength=lines * _BINS).reshape(lines, _BINS)

    def line(self, joint: int | None = None) -> dict[str, Any]:
        """The table's numbers, of all joints or of one."""
        at = slice(None) if joint is None else slice(joint, joint + 1)
        rows = self.rows if joint is None else int(self.frames[joint])
        ok = self.ok_rows if joint is None else int(self.ok[joint])
        least, greatest = self.least[at].min(), self.greatest[at].max()
        return {
            "sequences": sum(bool(joints[at].max()) for joints in self.sequences.values()),
            "frames": rows,
            "ok": ok,
            "failed": rows - ok,
            "confidence": _ratio(self.confidence[at].sum(), self.ok[at].sum()),
            "depth_min": float(least) if np.isfinite(least) else np.nan,
            "depth_max": float(greatest) if np.isfinite(greatest) else np.nan,
            "error_px": _ratio(self.error[at].sum(), self.compared[at].sum()),
            "error_px_median": _median(self.errors[0 if joint is None else joint]),
        }


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else np.nan


def _median(counts: Array) -> float:
    """Middle of the bin that holds the median."""
    total = counts.sum()
    if not total:
        return np.nan
    place = int(np.searchsorted(np.cumsum(counts), (total + 1) // 2))
    return float(_LEAST * np.exp((place - 0.5) * _STEP))


def summary_table(selected: Features, group_by: str = "sequence") -> pd.DataFrame:
    """Summarise the selected rows, one line a group; memory doesn't grow with the selection.

    Parameters
    ----------
    selected : Features
        What to summarise.
    group_by : {"sequence", "action", "subject", "camera", "split", "joint"}
        What a line stands for.

    Returns
    -------
    pandas.DataFrame
        The group's names, then: sequences; frames (rows: one a frame and person), of which ok and failed; mean
        confidence of the joints; depth_min and depth_max, m, of valid joints; error_px and error_px_median, the mean
        and the median (within 1 %) distance of detected and annotated 2D joints where the annotation is usable.
        Under a condition (`Features.sel(where=…)`) only joints that fulfil it count.
    """
    layout, by_joint = selected.layout, group_by == "joint"
    names = () if by_joint else SEQUENCE if group_by == "sequence" else (group_by,)
    tallies: dict[tuple[Any, ...], _Tally] = {}
    for block in selected.blocks(("features", "joint_valid", "error_px")):
        source = block.source
        group = tuple(source.split if name == "split" else getattr(source.key, name) for name in names)
        if len(block):
            tallies.setdefault(group, _Tally()).add(block, layout, by_joint)
    if by_joint:
        lines = [{"joint": n} | t.line(i) for t in tallies.values() for i, n in enumerate(H36M_17.joints)]
    else:
        lines = [dict(zip(names, group, strict=True)) | tally.line() for group, tally in sorted(tallies.items())]
    return pd.DataFrame(lines, columns=["joint"] if by_joint else list(names)) if not lines else pd.DataFrame(lines)


def to_table(block: Block, layout: Layout) -> pd.DataFrame:
    """Long table of a file's rows, one line a frame and joint; only joints that fulfil the selection's conditions.

    Columns: subject, action, subaction, camera, split, person, frame, status, joint, then the features, joint_valid,
    and what else the block has one number of for each row or joint.
    """
    count = len(block)
    key = block.source.key
    table: dict[str, Any] = {name: np.full(count * JOINTS, getattr(key, name)) for name in SEQUENCE}
    table["split"] = np.full(count * JOINTS, block.source.split)
    table["person"] = np.repeat(block.arrays["person"], JOINTS)
    table["frame"] = np.repeat(block.arrays["frame_number"], JOINTS)
    table["status"] = np.repeat(status_names(block.arrays["status"]), JOINTS)
    table["joint"] = np.tile(np.array(H36M_17.joints), count)
    values = block.arrays["features"].reshape(count * JOINTS, len(layout.names))
    table |= {name: values[:, i] for i, name in enumerate(layout.names)}
    for name in ("joint_valid", "error_px"):
        if name in block.arrays:
            table[name] = block.arrays[name].reshape(-1)
    return pd.DataFrame(table)[block.chosen.reshape(-1)]
