"""What is left to do: which partitions are finished, which files have to be set aside, what the dead left behind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from etl.stages.files.features import inspect
from etl.stages.files.maps import inspect as inspect_maps
from etl.store.listing import Shelf, may_be_late
from etl.store.netcdf import DAMAGE
from etl.store.partition import Partition, Receipt, check_disjoint
from etl.store.workspace import FeatureStore

log = logging.getLogger(__name__)


@dataclass
class Resume:
    """What a look into the store found.

    Parameters
    ----------
    finished : dict of str to Receipt
        Partitions that need nothing, by id.
    todo : list of Partition
        The others.
    adopted : int
        Files that a killed run had written but not noted.
    damaged : list of str
        Files that had to be set aside, with the reason.
    present : set of PurePosixPath
        All files in the folders of the partitions, relative to the store.
    unmapped : dict of str to PurePosixPath
        Of the partitions to do, those whose features are finished, but not the maps that belong at this path; by id.
    """

    finished: dict[str, Receipt] = field(default_factory=dict)
    todo: list[Partition] = field(default_factory=list)
    adopted: int = 0
    damaged: list[str] = field(default_factory=list)
    present: set[PurePosixPath] = field(default_factory=set)
    unmapped: dict[str, PurePosixPath] = field(default_factory=dict)


def look_for_finished(
    partitions: Iterable[Partition],
    store: FeatureStore,
    *,
    verify: bool = False,
    maps: str = "",
    sleep: Callable[[float], object] = time.sleep,
) -> Resume:
    """Find out what is left to do; changes nothing.

    A file with a receipt counts if it has the receipt's size (with `verify`, if it opens as a valid feature
    file with the receipt's checksum); a file without one counts if it opens as a valid feature file. Each folder is
    listed once, and again for some seconds where a file is absent that a worker has just written.

    Where maps are to be kept, `maps` is how their names end: a partition without them is to do too. They count if they
    are there (with `verify`, if they open as the partition's).
    """
    partitions = list(partitions)
    receipts = store.receipts()
    shelf = Shelf(store.folder)
    shelf.look(partition.path.parent for partition in partitions)
    noted = {p.path: receipts[p.id] for p in partitions if p.id in receipts}
    shelf.wait_for({path: r.bytes for path, r in noted.items() if may_be_late(r.written)}, sleep=sleep)
    result = Resume(present=set(shelf.names()))
    for partition in partitions:
        receipt, found = receipts.get(partition.id), shelf.size(partition.path)
        if found is None:
            if receipt is not None:
                result.damaged.append(f"{partition.path}: the file is gone")
            result.todo.append(partition)
            continue
        try:
            if receipt is None:
                receipt = inspect(partition, store)
                result.adopted += 1
            elif found != receipt.bytes:
                raise ValueError(f"{found} bytes, not {receipt.bytes}")
            elif verify and inspect(partition, store).sha256 != receipt.sha256:
                raise ValueError("its checksum isn't the receipt's")
        except DAMAGE as error:
            result.damaged.append(f"{partition.path}: {error}")
            result.todo.append(partition)
            continue
        if maps and not _has_maps(partition, store, maps, result, verify=verify):
            result.todo.append(partition)
            continue
        result.finished[partition.id] = receipt
    return result


def _has_maps(partition: Partition, store: FeatureStore, ending: str, resume: Resume, *, verify: bool) -> bool:
    path = partition.path.with_suffix(ending)
    if path in resume.present:
        if not verify:
            return True
        try:
            inspect_maps(store.folder / path, partition.id, partition.rows)
            return True
        except DAMAGE as error:
            resume.damaged.append(f"{path}: {error}")
    resume.unmapped[partition.id] = path
    return False


def settle(resume: Resume, partitions: Iterable[Partition], store: FeatureStore) -> None:
    """Bring the store in line with what was found: adopt files, set aside those that mustn't count.

    Files of inputs that are no more (the video was replaced, say) claim frames that are to run again: they are
    set aside too. What killed workers were writing is removed; so no worker may write while this runs.

    Raises
    ------
    WorkspaceError
        When two files that stay claim the same frame.
    """
    wanted = list(partitions)
    if resume.adopted:
        known = store.receipts()
        for receipt in resume.finished.values():
            if receipt.id not in known:
                store.add_receipt(receipt)
    for partition in resume.todo:
        damaged = resume.unmapped.get(partition.id, partition.path)
        if damaged in resume.present:
            path = store.folder / damaged
            path.replace(path.with_suffix(".damaged"))
    expected = {partition.path for partition in wanted}
    for stray in sorted(path for path in resume.present if _features_of(path) not in expected):
        if stray.suffix in (".nc", ".zip"):
            log.warning("set aside %s: its inputs have changed", stray)
            (store.folder / stray).replace((store.folder / stray).with_suffix(".superseded"))
        elif stray.suffix == ".tmp" and stray.name.startswith("."):
            (store.folder / stray).unlink(missing_ok=True)
    check_disjoint({store.folder / p.path: (p.key, p.first, p.last) for p in wanted})


def _features_of(path: PurePosixPath) -> PurePosixPath:
    """The feature file that a maps file lies beside; other files themselves."""
    stem, found, _ = path.name.partition(".maps-")
    return path.with_name(f"{stem}.nc") if found and path.suffix == ".zip" else path


def sweep(partitions: Iterable[Partition], store: FeatureStore) -> None:
    """Remove what workers that were killed in this run were writing; only while no worker writes."""
    for folder in {(store.folder / partition.path).parent for partition in partitions}:
        for torn in folder.glob(".*.tmp"):
            torn.unlink(missing_ok=True)
