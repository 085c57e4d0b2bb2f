"""The workspace: the folder of all results, its lock, and atomic writes.

::

    <workspace>/
      xycd-workspace.json                     layout of this folder
      <dataset>/annotations/<key>/subject=…/action=…/subaction=…/camera=….nc
      <dataset>/features/<stage key>/subject=…/…/camera=…/<first>-<last>_<id>.nc
                                                       <first>-<last>_<id>.maps-….zarr.zip, if maps are kept
                                    stage.json         models and parameters that the key hashes
                                    run.json           settings and raw data folder of the last run
                                    receipts.jsonl     one line per finished partition
                                    partitions-….json  table of partitions by annotation file
                                    index/             every finished frame, as Parquet
                                    failures.jsonl     partitions that raised
                                    attempts/          one line per execution, by host and process
      <dataset>/current.json                  the keys of the last run, for queries
      training/                               the files to train with
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from etl.errors import WorkspaceError
from etl.store.disk import disk_error
from etl.store.partition import Partition, Receipt

MARKER = "xycd-workspace.json"
LAYOUT = 1


@dataclass(frozen=True)
class Current:
    """Keys of a dataset's annotations and features that the last run made."""

    annotations: str
    features: str | None = None


class FeatureStore:
    """The feature files of one dataset under one stage key, and their index of receipts.

    Parameters
    ----------
    folder : Path
        ``<workspace>/<dataset>/features/<stage key>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.receipts_path = folder / "receipts.jsonl"
        self.failures_path = folder / "failures.jsonl"

    def create(self, description: dict[str, Any]) -> None:
        """Make the folder and record the description that its key hashes."""
        make_folder(self.folder)
        if not (self.folder / "stage.json").exists():
            write_atomically(self.folder / "stage.json", json.dumps(description, indent=1, sort_keys=True).encode())

    def record_run(self, values: dict[str, Any]) -> None:
        """Record the raw data's folder and the models' settings, to show frames later."""
        write_atomically(self.folder / "run.json", json.dumps(values, indent=1, sort_keys=True).encode())

    def last_run(self) -> dict[str, Any]:
        """Return the values of the last `record_run`; empty if there are none."""
        path = self.folder / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def receipts(self) -> dict[str, Receipt]:
        """Receipts by partition id, without lines that a crash cut short."""
        found: dict[str, Receipt] = {}
        for line in _lines(self.receipts_path):
            with contextlib.suppress(json.JSONDecodeError, TypeError):
                receipt = Receipt.from_json(line)
                found[receipt.id] = receipt
        return found

    def add_receipt(self, receipt: Receipt) -> None:
        """Append a receipt to the index, durably."""
        append_line(self.receipts_path, receipt.to_json())

    def failures(self) -> list[dict[str, str]]:
        """Partitions that failed as a whole in their last run: id, path, frames (first-last), reason."""
        found = []
        for line in _lines(self.failures_path):
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def add_failure(self, partition: Partition, reason: str) -> None:
        """Record that a partition failed as a whole."""
        entry = {
            "id": partition.id,
            "path": partition.path.as_posix(),
            "frames": f"{partition.first}-{partition.last}",
            "reason": reason,
        }
        append_line(self.failures_path, json.dumps(entry))

    def clear_failures(self, covered: Collection[Partition]) -> None:
        """Remove the failures of sequences that a new run covers."""
        sequences = {partition.path.parent for partition in covered}
        before = self.failures()
        kept = [entry for entry in before if PurePosixPath(entry["path"]).parent not in sequences]
        if not kept:
            self.failures_path.unlink(missing_ok=True)
        elif len(kept) < len(before):
            write_atomically(self.failures_path, "".join(f"{json.dumps(entry)}\n" for entry in kept).encode())

    def attempts(self) -> list[dict[str, Any]]:
        """All executions of partitions so far, finished or not: id and time."""
        files = sorted((self.folder / "attempts").glob("*.jsonl"))
        found = []
        for path in files:
            for line in _lines(path):
                with contextlib.suppress(json.JSONDecodeError):  # cut short by a full disk
                    found.append(json.loads(line))
        return found

    def record_attempt(self, partition_id: str) -> None:
        """Record that an execution starts, in a file per process: appends from several nodes may mix."""
        folder = self.folder / "attempts"
        make_folder(folder)
        entry = {"id": partition_id, "time": time.time()}
        append_line(folder / f"{socket.gethostname()}-{os.getpid()}.jsonl", json.dumps(entry))


class Workspace:
    """The folder of all results. Open it for writing with ``with Workspace(path).writing():``.

    Parameters
    ----------
    root : Path
        The folder; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def training(self) -> Path:
        """Folder of the training files."""
        return self.root / "training"

    def annotations(self, dataset: str, key: str) -> Path:
        """Folder of a dataset's annotations under one key."""
        return self.root / dataset / "annotations" / key

    def features(self, dataset: str, stage_key: str) -> FeatureStore:
        """Feature files of a dataset under one stage key."""
        return FeatureStore(self.root / dataset / "features" / stage_key)

    def datasets(self) -> list[str]:
        """Datasets that have results here."""
        return sorted(path.parent.name for path in self.root.glob("*/current.json"))

    def current(self, dataset: str) -> Current:
        """Keys of the dataset's last run.

        Raises
        ------
        WorkspaceError
            When there is none, or the workspace has another layout.
        """
        path = self.root / dataset / "current.json"
        is_workspace(self.root)
        try:
            return Current(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise WorkspaceError(
                f"{path} names the annotations and features of the last run.", f"unreadable: {error}", "Run it again."
            ) from error
        except FileNotFoundError as error:
            known = ", ".join(self.datasets()) or "none"
            raise WorkspaceError(
                "The workspace holds results of the dataset.",
                f"nothing of {dataset!r} in {self.root} (datasets there: {known})",
                "Check --workspace and the dataset's name, or run `xycd run` first.",
            ) from error

    def set_current(self, dataset: str, current: Current) -> None:
        """Record the keys of this run, for queries."""
        values = {"annotations": current.annotations, "features": current.features}
        write_atomically(self.root / dataset / "current.json", json.dumps(values).encode())

    def writing(self) -> WorkspaceLock:
        """Return a context in which only this process writes to the workspace."""
        return WorkspaceLock(self.root)


def is_workspace(root: Path) -> bool:
    """Whether a folder is a workspace.

    Raises
    ------
    WorkspaceError
        When its layout can't be read by this version.
    """
    marker = root / MARKER
    try:
        layout = json.loads(marker.read_bytes())["layout"]
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError):
        layout = f"none that can be read in {marker}"
    if layout != LAYOUT:
        raise WorkspaceError(
            f"This version reads workspaces of layout {LAYOUT}.",
            f"layout {layout}",
            "Use the version of xycd that wrote it, or a new --workspace.",
        )
    return True


class WorkspaceLock:
    """Lock of a workspace: makes the folder if needed, and keeps other runs out.

    The operating system holds the lock, so it ends with its process.

    Raises
    ------
    WorkspaceError
        When the folder isn't writable, holds other files, or is in use by another run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = FileLock(root / ".lock", timeout=0)
        self._owner = root / ".owner.json"

    def __enter__(self) -> Self:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(b"xycd")
        except OSError as error:
            raise disk_error(self.root, error) from error
        self._check_layout()
        try:
            self._lock.acquire()
        except Timeout as error:
            owner = self._owner.read_text() if self._owner.exists() else "an unknown process"
            raise WorkspaceError(
                "One run at a time writes to a workspace.",
                f"{self.root} is in use by {owner}",
                "Wait for that run, stop it, or give another --workspace. Queries work meanwhile.",
            ) from error
        self._owner.write_text(f"process {os.getpid()} of {getpass.getuser()} on {socket.gethostname()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner.unlink(missing_ok=True)
        self._lock.release()

    def _check_layout(self) -> None:
        if is_workspace(self.root):
            return
        strangers = sorted(p.name for p in self.root.iterdir() if not p.name.startswith("."))
        if strangers:
            raise WorkspaceError(
                "A new workspace starts in an empty folder.",
                f"{self.root} holds {', '.join(strangers[:3])}{' and more' if len(strangers) > 3 else ''}",
                "Give --workspace a folder of its own.",
            )
        write_atomically(self.root / MARKER, json.dumps({"layout": LAYOUT, "about": "results of xycd"}).encode())


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises
    ------
    WorkspaceError
        When it can't be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a small file: temporary file, fsync, rename."""
    with atomic_target(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def atomic_target(path: Path) -> Iterator[Path]:
    """Give a temporary path; the file written there replaces `path` when the block ends without an error.

    Raises
    ------
    WorkspaceError
        When it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append one line durably, in a single write, so that lines never mix."""
    try:
        with path.open("ab") as file:
            # An unfinished line, left by a crash, must not merge with this one.
            torn = file.tell() > 0 and _last_byte(path) != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(path, error) from error


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _lines(path: Path) -> Iterable[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
