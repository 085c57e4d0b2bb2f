"""Whether training files are still those of their inputs: a merge that would change nothing isn't run again."""

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
class Output:
    """One training file, and what it is to be made from.

    Parameters
    ----------
    path : Path
        The npz, or the folder of npy files.
    pairs : tuple of SequenceFiles
        The sequences in it.
    inputs : str
        Digest of the contents of these, and of the settings.
    """

    path: Path
    pairs: tuple[SequenceFiles, ...]
    inputs: str

    @classmethod
    def of(
        cls, path: Path, pairs: Iterable[SequenceFiles], receipts: Mapping[Path, Receipt], settings: Mapping[str, Any]
    ) -> Output:
        """Describe an output.

        Parameters
        ----------
        path, pairs
            As above.
        receipts : mapping of Path to Receipt
            Of the feature files, which carry their checksums; annotation files count by size and time.
        settings : mapping
            JSON-ready: versions and parameters that decide what is written.
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
    def _note(self) -> Path:
        return self.path.with_name(f".{self.path.name}.inputs.json")

    def is_current(self) -> bool:
        """Whether the file is there, as it was written from just these inputs."""
        try:
            noted = json.loads(self._note.read_bytes())
            return bool(noted == self._facts())
        except (OSError, ValueError):
            return False

    def record(self) -> None:
        """Note what the file, which has just been written, was made from."""
        write_atomically(self._note, json.dumps(self._facts()).encode())

    def _facts(self) -> dict[str, Any]:
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        return {"inputs": self.inputs, "files": [[file.name, *_stamp(file)] for file in files]}


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
