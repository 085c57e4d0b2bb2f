"""Table of partitions, stored beside the features, so that a resume needn't open every annotation file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etl.store.partition import Partition, SequenceRows, cut_sequence
from etl.store.workspace import write_atomically
from schemas.keys import SequenceKey

LAYOUT = 1  # raise it when `cut_sequence` gives other partitions for the same annotation


@dataclass(frozen=True)
class AnnotationEntry:
    """Partitions of one annotation file.

    Parameters
    ----------
    stamp : tuple of int
        Size and time of change of the file.
    split : str
        Split of the sequence.
    has_truth : bool
        Whether the sequence has annotated joints.
    parts : tuple of (first, last, rows, frames, id)
        Its partitions.
    """

    stamp: tuple[int, int]
    split: str
    has_truth: bool
    parts: tuple[tuple[int, int, int, int, str], ...]


class PartitionTable:
    """Partitions by annotation file, for one stage key and one folder of annotations.

    A file with the recorded size and time of change is taken as unchanged: annotations are only ever replaced.

    Parameters
    ----------
    path : Path
        File of the table; `save` writes it.
    dataset : str
        Name of the dataset.
    annotations : Path
        Folder of the annotations.
    stage_key, frames, uses_boxes
        See `etl.store.partition.cut_sequence`.
    """

    def __init__(
        self, path: Path, dataset: str, annotations: Path, *, stage_key: str, frames: int, uses_boxes: bool
    ) -> None:
        self.path, self.dataset, self.annotations = path, dataset, annotations
        self._parameters = {"stage_key": stage_key, "frames": frames, "uses_boxes": uses_boxes}
        self._stage_key, self._frames, self._uses_boxes = stage_key, frames, uses_boxes
        self._entries = self._read()
        self._changed = False

    def entry(self, name: str) -> AnnotationEntry:
        """Return the entry of the annotation file `name`; cut the sequence if the file is new.

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
            partitions = cut_sequence(rows, name, self._stage_key, self._frames, uses_boxes=self._uses_boxes)
            parts = tuple((p.first, p.last, p.rows, p.frames, p.id) for p in partitions)
            known = self._entries[name] = AnnotationEntry(stamp, rows.split, rows.has_truth, parts)
            self._changed = True
        return known

    def partitions(self, name: str) -> list[Partition]:
        """Partitions of the annotation file `name`, in order of frames."""
        return self._partitions(name, self.entry(name))

    def save(self) -> None:
        """Write the table if it has changed. The workspace must be open for writing."""
        if self._changed:
            content = {name: asdict(entry) for name, entry in sorted(self._entries.items())}
            text = json.dumps({"layout": LAYOUT, **self._parameters, "files": content})
            write_atomically(self.path, text.encode())
            self._changed = False

    @classmethod
    def read_partitions(cls, path: Path, dataset: str, annotations: Path) -> list[Partition]:
        """Read all partitions of the table at `path` whose annotation files still exist."""
        try:
            content = json.loads(path.read_bytes())
            known = {name: content[name] for name in ("stage_key", "frames", "uses_boxes")}
        except (OSError, ValueError, KeyError, TypeError):
            return []
        table = cls(path, dataset, annotations, **known)
        there = [name for name in table._entries if (annotations / name).exists()]
        return [partition for name in there for partition in table._partitions(name, table._entries[name])]

    def _partitions(self, name: str, entry: AnnotationEntry) -> list[Partition]:
        key = SequenceKey.from_path(self.dataset, name.removesuffix(".nc"))
        return [
            Partition(key, first, last, rows, frames, identity, name)
            for first, last, rows, frames, identity in entry.parts
        ]

    def _read(self) -> dict[str, AnnotationEntry]:
        try:
            content = json.loads(self.path.read_bytes())
            if any(content[name] != value for name, value in {"layout": LAYOUT, **self._parameters}.items()):
                return {}
            return {name: _entry(values) for name, values in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # without a table, the annotations are cut again


def _entry(values: dict[str, Any]) -> AnnotationEntry:
    size, time = values["stamp"]
    parts = tuple((int(a), int(b), int(c), int(d), str(e)) for a, b, c, d, e in values["parts"])
    return AnnotationEntry((size, time), str(values["split"]), bool(values["has_truth"]), parts)
