"""Record of a training file's inputs, so that a merge that would change nothing is skipped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl.stages.join import SequenceFiles
from etl.store.partition import Receipt, digest
from etl.store.workspace import write_atomically


@dataclass(frozen=True)
class TrainingFile:
    """A training file and its inputs.

    Parameters
    ----------
    path : Path
        The npz, or the folder of npy files.
    pairs : tuple of SequenceFiles
        The sequences in it.
    inputs : str
        Digest of the sequences' contents and of the settings.
    """

    path: Path
    pairs: tuple[SequenceFiles, ...]
    inputs: str

    @classmethod
    def of(
        cls, path: Path, pairs: Iterable[SequenceFiles], receipts: Mapping[Path, Receipt], settings: Mapping[str, Any]
    ) -> TrainingFile:
        """Describe a training file.

        Parameters
        ----------
        path, pairs
            As above.
        receipts : mapping of Path to Receipt
            Receipts of the feature files, with their checksums. Annotation files are compared by size and time.
        settings : mapping
            Versions and parameters that change the content, JSON-ready.
        """
        pairs = tuple(pairs)
        facts = [
            [
                [pair.annotation.as_posix(), *_stamp(pair.annotation)],
                [[receipts[p].id, receipts[p].sha256] for p in pair.features],
            ]
            for pair in pairs
        ]
        return cls(path, pairs, digest(dict(settings), facts, length=32))

    @property
    def _record_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.inputs.json")

    def is_current(self) -> bool:
        """Whether the file exists and was written from the same inputs."""
        try:
            recorded = json.loads(self._record_path.read_bytes())
            return bool(recorded == self._facts())
        except (OSError, ValueError):
            return False

    def record(self) -> None:
        """Record the inputs of the file that was just written."""
        write_atomically(self._record_path, json.dumps(self._facts()).encode())

    def _facts(self) -> dict[str, Any]:
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        return {"inputs": self.inputs, "files": [[file.name, *_stamp(file)] for file in files]}


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
