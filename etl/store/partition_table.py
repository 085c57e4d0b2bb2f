"""The partitions of a run, noted beside its features, so that the next run needn't open every annotation to cut it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etl.store.partition import Partition, SequenceRows, cut
from etl.store.workspace import write_atomically
from schemas.keys import SequenceKey

LAYOUT = 1  # raise it when `cut` gives other partitions for the same annotation


@dataclass(frozen=True)
class Entry:
    """What is noted of one annotation file.

    Parameters
    ----------
    stamp : tuple of int
        Its size and time.
    split : str
        Its split.
    has_truth : bool
        Whether there are joints.
    parts : tuple of (first, last, rows, frames, id)
        Its partitions.
    """

    stamp: tuple[int, int]
    split: str
    has_truth: bool
    parts: tuple[tuple[int, int, int, int, str], ...]


class PartitionTable:
    """Partitions by annotation file, of one stage key and one folder of annotations.

    A file counts as the one that was noted if it has the same size and time of change: annotations are never changed in
    place, only replaced.

    Parameters
    ----------
    path : Path
        Where the table is, or will be when `save` is called.
    dataset : str
        Name of the dataset.
    annotations : Path
        Folder of the annotations.
    stage_key, frames, uses_boxes
        See `etl.store.partition.cut`.
    """

    def __init__(
        self, path: Path, dataset: str, annotations: Path, *, stage_key: str, frames: int, uses_boxes: bool
    ) -> None:
        self.path, self.dataset, self.annotations = path, dataset, annotations
        self._parameters = {"stage_key": stage_key, "frames": frames, "uses_boxes": uses_boxes}
        self._stage_key, self._frames, self._uses_boxes = stage_key, frames, uses_boxes
        self._entries = self._read()
        self._changed = False

    def entry(self, name: str) -> Entry:
        """What is known of the annotation file `name`; it is opened if it is new.

        Raises
        ------
        OSError
            When it can't be read.
        """
        path = self.annotations / name
        stat = path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        known = self._entries.get(name)
        if known is None or known.stamp != stamp:
            rows = SequenceRows.read(path, boxes=self._uses_boxes)
            parts = cut(rows, name, self._stage_key, self._frames, uses_boxes=self._uses_boxes)
            noted = tuple((p.first, p.last, p.rows, p.frames, p.id) for p in parts)
            known = self._entries[name] = Entry(stamp, rows.split, rows.has_truth, noted)
            self._changed = True
        return known

    def partitions(self, name: str) -> list[Partition]:
        """Partitions of the annotation file `name`, in order of frames."""
        return self._partitions(name, self.entry(name))

    def save(self) -> None:
        """Note what is new; call it only where the workspace is open for writing."""
        if self._changed:
            content = {name: asdict(entry) for name, entry in sorted(self._entries.items())}
            text = json.dumps({"layout": LAYOUT, **self._parameters, "files": content})
            write_atomically(self.path, text.encode())
            self._changed = False

    @classmethod
    def noted(cls, path: Path, dataset: str, annotations: Path) -> list[Partition]:
        """All partitions in the table at `path`, however they were cut, of annotations that are still there."""
        try:
            content = json.loads(path.read_bytes())
            known = {name: content[name] for name in ("stage_key", "frames", "uses_boxes")}
        except (OSError, ValueError, KeyError, TypeError):
            return []
        table = cls(path, dataset, annotations, **known)
        there = [name for name in table._entries if (annotations / name).exists()]
        return [partition for name in there for partition in table._partitions(name, table._entries[name])]

    def _partitions(self, name: str, entry: Entry) -> list[Partition]:
        key = SequenceKey.from_path(self.dataset, name.removesuffix(".nc"))
        return [
            Partition(key, first, last, rows, frames, identity, name)
            for first, last, rows, frames, identity in entry.parts
        ]

    def _read(self) -> dict[str, Entry]:
        try:
            content = json.loads(self.path.read_bytes())
            if any(content[name] != value for name, value in {"layout": LAYOUT, **self._parameters}.items()):
                return {}
            return {name: _entry(values) for name, values in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # absent or damaged: the annotations say it all


def _entry(values: dict[str, Any]) -> Entry:
    size, time = values["stamp"]
    parts = tuple((int(a), int(b), int(c), int(d), str(e)) for a, b, c, d, e in values["parts"])
    return Entry((size, time), str(values["split"]), bool(values["has_truth"]), parts)
