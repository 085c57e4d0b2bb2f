"""Annotate: every sequence of a raw dataset becomes one labelled file, and all of them MMPose's own files.

Sequences are independent: one that fails is listed with its reason and costs nothing else. A file is made once: it
records what it was made from, and is left alone until that changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

import xarray as xr

from cluster.processors import cores
from etl.datasets.base import DatasetReader, Sequence
from etl.errors import XycdError
from etl.stages.files.manifest import FILE, VERSION, Entry, Manifest, read_entries, read_failures, summarise
from etl.stages.files.mmpose import Export, export_cameras, export_mmpose, update_exports
from etl.stages.progress import Reporter, Silent
from etl.store.workspace import write_atomically
from schemas import annotation, mmpose
from schemas.errors import SchemaError
from schemas.keys import SequenceKey
from schemas.skeletons import H36M_17

__all__ = [
    "VERSION",
    "Entry",
    "Export",
    "Manifest",
    "annotate",
    "describe_joints",
    "export_cameras",
    "export_mmpose",
    "export_splits",
    "identity_of",
    "options_of",
    "read_annotations",
    "takes_all",
]

MOST_WORKERS: Final = 8
PER_WORKER: Final = 16  # sequences that make it worth while to start another process

# Options of readers that choose sequences and don't change any, with the values that choose all.
FILTERS: Final = {"subjects": None, "actions": None, "cameras": None, "camera_set": "all"}


def annotate(
    reader: DatasetReader, folder: Path, *, workers: int | None = None, progress: Reporter | None = None
) -> Manifest:
    """Bring the annotation files of all of the reader's sequences up to date.

    Parameters
    ----------
    reader : DatasetReader
        The raw dataset.
    folder : Path
        Where ``<sequence's path>.nc`` and ``manifest.json`` go.
    workers : int, optional
        Processes; by default as many as there are processors, and fewer for few sequences.
    progress : Reporter, optional
        Is told of every sequence.

    Raises
    ------
    DatasetError
        When the raw dataset as a whole can't be read.
    WorkspaceError
        When the folder can't be written.
    """
    progress = progress or Silent()
    sequences = reader.sequences()
    notes = list(getattr(reader, "notes", list)())
    known, earlier = read_entries(folder), _unvisited_failures(reader, sequences, read_failures(folder))
    root = Path(getattr(reader, "root", "."))
    options = options_of(reader)
    identities = {_path(s): identity_of(s, root, options) for s in sequences}
    todo = [s for s in sequences if not _up_to_date(folder, _path(s), identities[_path(s)], known)]
    failures: dict[str, str] = {}
    noted: dict[str, tuple[str, ...]] = {}
    progress.start("annotate", len(sequences), len(sequences) - len(todo), unit="sequences")
    for sequence, outcome in _outcomes(reader, todo, folder, identities, workers):
        if isinstance(outcome, Entry):
            known[_path(sequence)] = outcome
            noted[str(sequence.key)] = outcome.notes
        else:
            failures[sequence.key.path.as_posix()] = outcome
            # A file made from raw files that are no longer what they were isn't an annotation of these.
            known.pop(_path(sequence), None)
            (folder / _path(sequence)).unlink(missing_ok=True)
        progress.advance(1, failed=int(not isinstance(outcome, Entry)))
    for note in (*notes, *summarise(dict(sorted(noted.items())))):
        progress.note(note)
    made = len(todo) - len(failures)
    manifest = Manifest(reader.name, known, failures, notes, made, earlier)
    write_atomically(folder / FILE, manifest.to_json().encode())
    rows = sum(known[_path(s)].rows for s in sequences if _path(s) in known)
    progress.finish(f"{rows:,} rows in {len(sequences) - len(failures):,} sequences, {made:,} of them new")
    return manifest


def read_annotations(folder: Path) -> list[Path]:
    """Annotation files in `folder`, in order of their keys."""
    found = [path for path in folder.rglob("*.nc") if not path.name.startswith(".")]
    return sorted(
        found, key=lambda path: SequenceKey.from_path("", path.relative_to(folder).with_suffix("").as_posix())
    )


def export_splits(
    folder: Path, files: SequenceOf[Path], output_folder: Path, dataset: str, *, complete: bool = False
) -> list[Path]:
    """Bring the files for MMPose of every split up to date, those of `files`; see schemas.mmpose.

    Parameters
    ----------
    folder : Path
        Where annotate wrote the files and their manifest.
    files : sequence of Path
        The annotation files that take part.
    output_folder : Path
        Where ``<dataset>_<split>.npz`` and ``<dataset>_cameras.json`` and ``.pkl`` go.
    dataset : str
        Its name.
    complete : bool
        Whether `files` are those of the whole dataset, so that what was exported of other splits is out of date.

    Returns
    -------
    list of Path
        The npz of each split that has ground truth. What was made of the same files before is left alone.
    """
    known = read_entries(folder)
    splits: dict[str, dict[Path, str]] = {}
    unlabelled: dict[Path, str] = {}
    for path in files:
        entry = known.get(path.relative_to(folder).as_posix(), Entry("", 0, ""))
        (splits.setdefault(entry.split, {}) if entry.labelled else unlabelled)[path] = entry.identity
    return update_exports(splits, unlabelled, output_folder, dataset, complete=complete)


def describe_joints(folder: Path, files: SequenceOf[Path], dataset: str) -> dict[str, Any]:
    """What to know of the joints of annotation files in `folder`, JSON-ready: order, sources, MMPose's order."""
    known = read_entries(folder)
    entries = [known.get(path.relative_to(folder).as_posix()) for path in files]
    sources = sorted({entry.joint_source for entry in entries if entry})
    return {"joints": list(H36M_17.joints), "joint_source": sources, **mmpose.describe_order(dataset)}


def takes_all(reader: DatasetReader) -> bool:
    """Whether the reader lists the whole dataset, of every split at least."""
    return all(getattr(reader, name, None) is None for name in ("subjects", "actions", "cameras"))


def _unvisited_failures(
    reader: DatasetReader, visited: SequenceOf[Sequence], failures: Mapping[str, str]
) -> dict[str, str]:
    """Failures of earlier runs that this one says nothing about: of sequences that only other filters choose."""
    names = {sequence.key.path.as_posix() for sequence in visited}
    left = {name: reason for name, reason in failures.items() if name not in names}
    fields = getattr(reader, "__dataclass_fields__", {})
    if not left or not fields:
        return left
    unfiltered: Any = reader
    try:
        unfiltered = dataclasses.replace(unfiltered, **{name: all_ for name, all_ in FILTERS.items() if name in fields})
        there = {sequence.key.path.as_posix() for sequence in unfiltered.sequences()}
    except XycdError:  # what a filter left out can't be listed
        return left
    return {name: reason for name, reason in left.items() if name in there}


def options_of(reader: DatasetReader) -> dict[str, str]:
    """The reader's options that change what an annotation holds."""
    fields = getattr(reader, "__dataclass_fields__", {})
    return {name: repr(getattr(reader, name)) for name in fields if name not in {*FILTERS, "root", "name", "splits"}}


def identity_of(sequence: Sequence, root: Path, options: Mapping[str, str]) -> str:
    """Hash of what an annotation depends on: raw files by size and time, their listing, options, version.

    Folders of images count by their own time, which changes when images come or go.
    """
    names = [*sequence.files.values(), sequence.media.path]
    facts = {
        "version": VERSION,
        "options": dict(options),
        "sequence": [str(sequence.key), sequence.split, sequence.release_name, sequence.media.to_dict()],
        "camera": sequence.camera.to_dict() if sequence.camera else None,
        "files": {name: _stamp(root / name) for name in names},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _path(sequence: Sequence) -> str:
    return f"{sequence.key.path}.nc"


def _up_to_date(folder: Path, path: str, identity: str, known: dict[str, Entry]) -> bool:
    """Whether the file at `path` was made from what `identity` stands for; enters files that the manifest lacks."""
    if path not in known and (folder / path).is_file():
        try:
            with xr.open_dataset(folder / path, engine="netcdf4") as ds:
                known[path] = Entry.of(annotation.validate(ds))
        except (OSError, ValueError, KeyError):
            return False
    return path in known and known[path].identity == identity


def _outcomes(
    reader: DatasetReader, todo: SequenceOf[Sequence], folder: Path, identities: Mapping[str, str], workers: int | None
) -> Iterator[tuple[Sequence, Entry | str]]:
    """Yield what became of each sequence: its entry, or the reason why there is none."""
    workers = min(workers or cores(), MOST_WORKERS, max(len(todo) // PER_WORKER, 1))
    if workers == 1:
        for sequence in todo:
            yield sequence, _make(reader, sequence, folder, identities[_path(sequence)])
        return
    # Processes, because netCDF and HDF5 take one thread at a time.
    # They ignore Ctrl-C, which their terminal sends them too: the driver decides what it ends.
    deaf = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), signal.signal, deaf) as pool:
        futures = {pool.submit(_make, reader, s, folder, identities[_path(s)]): s for s in todo}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    yield futures[future], "The process that read it died, perhaps for want of memory. Run again."
        finally:
            pool.shutdown(cancel_futures=True)


def _make(reader: DatasetReader, sequence: Sequence, folder: Path, identity: str) -> Entry | str:
    """Read one sequence and write its file; the reason where it can't be read."""
    try:
        ds = reader.annotate(sequence)
        if annotation.key_of(ds) != sequence.key:
            raise SchemaError("An annotation has its sequence's key.", f"{annotation.key_of(ds)}", "Fix the reader.")
    except XycdError as error:
        return str(error)
    except Exception as error:  # foreign files meet foreign parsers: whatever is raised costs this sequence only
        return f"{type(error).__name__}: {error}"
    provenance = json.loads(ds.attrs["provenance"]) | {"identity": identity, "annotate": VERSION}
    ds.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    # Made in memory: on a full disk HDF5 says only "HDF error".
    write_atomically(folder / _path(sequence), ds.to_netcdf(None, engine="netcdf4", format="NETCDF4"))
    return Entry.of(ds)
