"""Annotate: from the sequences of a raw dataset to one labelled file each, and to MMPose's files of all.

Sequences are independent: one that fails is listed with its reason, and the others are annotated. A file records its
sources, and is made again only when they change.
"""

from __future__ import annotations

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
from etl.stages.files.mmpose import update_exports
from etl.stages.progress import Reporter, Silent
from etl.store.workspace import write_atomically
from schemas import annotation, mmpose
from schemas.errors import SchemaError
from schemas.skeletons import H36M_17

MOST_WORKERS: Final = 8
PER_WORKER: Final = 16  # sequences for which starting another process pays


def annotate(
    reader: DatasetReader, folder: Path, *, workers: int | None = None, progress: Reporter | None = None
) -> Manifest:
    """Update the annotation files of all of the reader's sequences.

    Parameters
    ----------
    reader : DatasetReader
        The raw dataset.
    folder : Path
        Target folder of ``<sequence's path>.nc`` and ``manifest.json``.
    workers : int, optional
        Processes; by default one for each processor, and fewer for few sequences.
    progress : Reporter, optional
        Gets every sequence.

    Raises
    ------
    DatasetError
        When the raw dataset can't be read at all.
    WorkspaceError
        When the folder can't be written.
    """
    progress = progress or Silent()
    sequences = reader.sequences()
    notes = reader.notes()
    known, earlier = read_entries(folder), _unvisited_failures(reader, sequences, read_failures(folder))
    identities = {_path(s): identity_of(s, reader) for s in sequences}
    todo = [s for s in sequences if not _up_to_date(folder, _path(s), identities[_path(s)], known)]
    failures: dict[str, str] = {}
    noted: dict[str, tuple[str, ...]] = {}
    progress.start("annotate", len(sequences), len(sequences) - len(todo), unit="sequences")
    for sequence, outcome in _annotate_all(reader, todo, folder, identities, workers):
        if isinstance(outcome, Entry):
            known[_path(sequence)] = outcome
            noted[str(sequence.key)] = outcome.notes
        else:
            failures[sequence.key.path.as_posix()] = outcome
            # An older file was made from other raw files.
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


def export_splits(
    folder: Path, files: SequenceOf[Path], output_folder: Path, dataset: str, *, complete: bool = False
) -> list[Path]:
    """Update MMPose's files of the splits of `files`; see schemas.mmpose.

    Parameters
    ----------
    folder : Path
        Folder of annotate, with the manifest.
    files : sequence of Path
        Annotation files to export.
    output_folder : Path
        Target folder of ``<dataset>_<split>.npz`` and ``<dataset>_cameras.json`` and ``.pkl``.
    dataset : str
        Name of the dataset.
    complete : bool
        Whether `files` are the whole dataset; exports of other splits are then removed.

    Returns
    -------
    list of Path
        The npz of each split with ground truth. Exports of unchanged files aren't made again.
    """
    known = read_entries(folder)
    splits: dict[str, dict[Path, str]] = {}
    unlabelled: dict[Path, str] = {}
    for path in files:
        entry = known.get(path.relative_to(folder).as_posix(), Entry("", 0, ""))
        (splits.setdefault(entry.split, {}) if entry.labelled else unlabelled)[path] = entry.identity
    return update_exports(splits, unlabelled, output_folder, dataset, complete=complete)


def describe_joints(folder: Path, files: SequenceOf[Path], dataset: str) -> dict[str, Any]:
    """Order and sources of the joints of annotation files, and MMPose's order; JSON-ready."""
    known = read_entries(folder)
    entries = [known.get(path.relative_to(folder).as_posix()) for path in files]
    sources = sorted({entry.joint_source for entry in entries if entry})
    return {"joints": list(H36M_17.joints), "joint_source": sources, **mmpose.describe_order(dataset)}


def _unvisited_failures(
    reader: DatasetReader, visited: SequenceOf[Sequence], failures: Mapping[str, str]
) -> dict[str, str]:
    """Failures of earlier runs in sequences that exist but that this run's filters exclude."""
    names = {sequence.key.path.as_posix() for sequence in visited}
    left = {name: reason for name, reason in failures.items() if name not in names}
    if not left:
        return left
    try:
        there = {sequence.key.path.as_posix() for sequence in reader.without_filters().sequences()}
    except XycdError:  # the excluded sequences can't be listed
        return left
    return {name: reason for name, reason in left.items() if name in there}


def identity_of(sequence: Sequence, reader: DatasetReader) -> str:
    """Hash of what an annotation depends on: size and time of raw files, their listing, options, version.

    For a folder of images it is the folder's time, which changes when images are added or removed.
    """
    names = [*sequence.files.values(), sequence.media.path]
    facts = {
        "version": VERSION,
        "options": reader.content_options(),
        "sequence": [str(sequence.key), sequence.split, sequence.release_name, sequence.media.to_dict()],
        "camera": sequence.camera.to_dict() if sequence.camera else None,
        "files": {name: _size_and_time(reader.root / name) for name in names},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _size_and_time(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _path(sequence: Sequence) -> str:
    return f"{sequence.key.path}.nc"


def _up_to_date(folder: Path, path: str, identity: str, known: dict[str, Entry]) -> bool:
    """Whether the file at `path` has this identity; adds files that the manifest lacks to `known`."""
    if path not in known and (folder / path).is_file():
        try:
            with xr.open_dataset(folder / path, engine="netcdf4") as ds:
                known[path] = Entry.of(annotation.validate(ds))
        except (OSError, ValueError, KeyError):
            return False
    return path in known and known[path].identity == identity


def _annotate_all(
    reader: DatasetReader, todo: SequenceOf[Sequence], folder: Path, identities: Mapping[str, str], workers: int | None
) -> Iterator[tuple[Sequence, Entry | str]]:
    """Yield each sequence with its entry, or with the reason of its failure."""
    workers = min(workers or cores(), MOST_WORKERS, max(len(todo) // PER_WORKER, 1))
    if workers == 1:
        for sequence in todo:
            yield sequence, _annotate_one(reader, sequence, folder, identities[_path(sequence)])
        return
    # Processes, because netCDF and HDF5 aren't thread-safe. The terminal sends Ctrl-C to them too; they ignore it,
    # because the driver decides what to stop.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), signal.signal, ignore) as pool:
        futures = {pool.submit(_annotate_one, reader, s, folder, identities[_path(s)]): s for s in todo}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    yield (
                        futures[future],
                        "The process that read it was killed; check whether memory ran out. Run again.",
                    )
        finally:
            pool.shutdown(cancel_futures=True)


def _annotate_one(reader: DatasetReader, sequence: Sequence, folder: Path, identity: str) -> Entry | str:
    """Read one sequence and write its file; returns the reason if that fails."""
    try:
        ds = reader.annotate(sequence)
        if annotation.key_of(ds) != sequence.key:
            raise SchemaError(
                "An annotation must have its sequence's key.", f"the key is {annotation.key_of(ds)}", "Fix the reader."
            )
    except XycdError as error:
        return str(error)
    except Exception as error:  # parsers of foreign files may raise anything; it concerns this sequence only
        return f"{type(error).__name__}: {error}"
    provenance = json.loads(ds.attrs["provenance"]) | {"identity": identity, "annotate": VERSION}
    ds.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    # Made in memory: on a full disk HDF5 says only "HDF error".
    write_atomically(folder / _path(sequence), ds.to_netcdf(None, engine="netcdf4", format="NETCDF4"))
    return Entry.of(ds)
