"""The workspace: the folder that holds all results, and who may write to it.

::

    <workspace>/
      xycd-workspace.json                     what this folder is
      <dataset>/annotations/<key>/subject=…/action=…/subaction=…/camera=….nc
      <dataset>/features/<stage key>/subject=…/…/camera=…/<first>-<last>_<id>.nc
                                                       <first>-<last>_<id>.maps-….zarr.zip, where maps are kept
                                    stage.json         models and parameters behind the key
                                    run.json           settings of the last run, and where the raw data were
                                    receipts.jsonl     one line a finished partition
                                    partitions-….json  how annotations were cut, to spare opening them again
                                    index/             every finished frame, as Parquet
                                    failures.jsonl     partitions that raised
                                    attempts/          one line an execution, by host and process
      <dataset>/current.json                  the keys of the last run, for query
      training/                               the files to train with
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from etl.errors import SpaceError, WorkspaceError
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
        """Make the folder and record what stands behind its key."""
        make_folder(self.folder)
        if not (self.folder / "stage.json").exists():
            write_atomically(self.folder / "stage.json", json.dumps(description, indent=1, sort_keys=True).encode())

    def record_run(self, values: dict[str, Any]) -> None:
        """Keep what it takes to look at frames again: the raw data's folder, and the settings of the models."""
        write_atomically(self.folder / "run.json", json.dumps(values, indent=1, sort_keys=True).encode())

    def last_run(self) -> dict[str, Any]:
        """What `record_run` was given last; empty where it never was."""
        path = self.folder / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def receipts(self) -> dict[str, Receipt]:
        """Receipts by partition id; a line that a crash cut short is left out."""
        found: dict[str, Receipt] = {}
        for line in _lines(self.receipts_path):
            with contextlib.suppress(json.JSONDecodeError, TypeError):
                receipt = Receipt.from_json(line)
                found[receipt.id] = receipt
        return found

    def add_receipt(self, receipt: Receipt) -> None:
        """Append to the index, durably."""
        append_line(self.receipts_path, receipt.to_json())

    def failures(self) -> list[dict[str, str]]:
        """Partitions that raised as a whole when they were last tried: id, path, frames (first-last), reason."""
        found = []
        for line in _lines(self.failures_path):
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def add_failure(self, partition: Partition, reason: str) -> None:
        """Record that a whole partition raised."""
        entry = {
            "id": partition.id,
            "path": partition.path.as_posix(),
            "frames": f"{partition.first}-{partition.last}",
            "reason": reason,
        }
        append_line(self.failures_path, json.dumps(entry))

    def clear_failures(self, covered: Collection[Partition]) -> None:
        """Forget the failures in sequences that a new run covers; it tries them again. Those of others stay."""
        sequences = {partition.path.parent for partition in covered}
        before = self.failures()
        kept = [entry for entry in before if PurePosixPath(entry["path"]).parent not in sequences]
        if not kept:
            self.failures_path.unlink(missing_ok=True)
        elif len(kept) < len(before):
            write_atomically(self.failures_path, "".join(f"{json.dumps(entry)}\n" for entry in kept).encode())

    def attempts(self) -> list[dict[str, Any]]:
        """All executions of partitions so far, finished or not: id, worker, time."""
        files = sorted((self.folder / "attempts").glob("*.jsonl"))
        found = []
        for path in files:
            for line in _lines(path):
                with contextlib.suppress(json.JSONDecodeError):  # a full disk cut it short
                    found.append(json.loads(line))
        return found

    def record_attempt(self, partition_id: str) -> None:
        """Note that an execution starts; one file a process, since appends from many nodes can't be trusted."""
        folder = self.folder / "attempts"
        make_folder(folder)
        entry = {"id": partition_id, "time": time.time()}
        append_line(folder / f"{socket.gethostname()}-{os.getpid()}.jsonl", json.dumps(entry))


class Workspace:
    """The folder of all results. Open it for writing with ``with Workspace(path).writing():``.

    Parameters
    ----------
    root : Path
        The folder; made when it is first written to.
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
            When there is none, or the workspace is another version's.
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
        """Record the keys of this run for queries."""
        values = {"annotations": current.annotations, "features": current.features}
        write_atomically(self.root / dataset / "current.json", json.dumps(values).encode())

    def writing(self) -> WorkspaceLock:
        """Context in which this process alone writes to the workspace."""
        return WorkspaceLock(self.root)


def is_workspace(root: Path) -> bool:
    """Whether a folder says that it holds results of xycd.

    Raises
    ------
    WorkspaceError
        When it does, and is of a layout that this version doesn't read.
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
    """Makes the folder ready for writing and keeps other runs out.

    The lock is the operating system's, so a killed run leaves none behind.

    Raises
    ------
    WorkspaceError
        When the folder isn't writable, isn't a workspace, or another run holds it.
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


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # no space, inodes or quota left


def disk_error(path: Path, error: OSError) -> WorkspaceError:
    """Error that explains a failed write: a `SpaceError` where the disk is full."""
    fixes = {
        errno.ENOSPC: "Free some space or choose another --workspace; the same command then goes on.",
        errno.EDQUOT: "Your quota is used up: free some space; the same command then goes on.",
        errno.EROFS: "The file system is read-only: choose another --workspace.",
        errno.EACCES: "You may not write there: choose another --workspace.",
        errno.EPERM: "You may not write there: choose another --workspace.",
    }
    fixes |= dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "Choose an output whose parent is a folder, and move others away."
    )
    fix = fixes.get(error.errno or 0, "Choose another --workspace.")
    kind = SpaceError if error.errno in FULL else WorkspaceError
    return kind("The workspace must be writable.", f"{path}: {error.strerror or error}{_inodes(path, error)}", fix)


@contextlib.contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of a full disk into a `SpaceError`; `path` is named where the error names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_error(Path(error.filename or path), error) from error


def _inodes(path: Path, error: OSError) -> str:
    """Whether it is the number of files that no file system has an error of its own for."""
    if error.errno != errno.ENOSPC:
        return ""
    with contextlib.suppress(OSError):
        found = os.statvfs(nearest(path))
        if found.f_files and not found.f_favail:
            return " (no inodes left: too many files)"
    return ""


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in.

    Raises
    ------
    WorkspaceError
        When the disk refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


def nearest(path: Path) -> Path:
    """`path`, or the nearest of its parents that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Free bytes on the file system that holds `path` or its nearest existing parent."""
    return shutil.disk_usage(nearest(path)).free


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a whole small file: temporary file beside it, fsync, rename."""
    with atomic_target(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def atomic_target(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there replaces `path` when the block ends well.

    Raises
    ------
    WorkspaceError
        When the disk refuses.
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
    """Append one line durably; a single write, so that readers never see half of it mixed with another."""
    try:
        with path.open("ab") as file:
            # A line that a crash left unfinished must not swallow this one.
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
