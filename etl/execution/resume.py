"""Resume: find the finished partitions in a store, and set aside files that mustn't count."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from etl.stages.files.features import verify_partition
from etl.stages.files.maps import verify_maps
from etl.store.listing import Listing, may_be_late
from etl.store.netcdf import DAMAGE
from etl.store.partition import Partition, Receipt, check_disjoint
from etl.store.workspace import FeatureStore

log = logging.getLogger(__name__)


@dataclass
class StoreState:
    """Files of a store, compared with the partitions of a run.

    Parameters
    ----------
    finished : dict of str to Receipt
        Receipts of the finished partitions, by id.
    todo : list of Partition
        Partitions to run.
    adopted : int
        Number of files that a killed run has written without a receipt.
    damaged : list of str
        Files that are missing or damaged, with the reason.
    present : set of PurePosixPath
        All files in the partitions' folders, relative to the store.
    unmapped : dict of str to PurePosixPath
        Path of the maps file, by id, of partitions to run whose features are finished but whose maps aren't.
    """

    finished: dict[str, Receipt] = field(default_factory=dict)
    todo: list[Partition] = field(default_factory=list)
    adopted: int = 0
    damaged: list[str] = field(default_factory=list)
    present: set[PurePosixPath] = field(default_factory=set)
    unmapped: dict[str, PurePosixPath] = field(default_factory=dict)


def inspect_store(
    partitions: Iterable[Partition],
    store: FeatureStore,
    *,
    verify: bool = False,
    maps: str = "",
    sleep: Callable[[float], object] = time.sleep,
) -> StoreState:
    """Find the finished partitions in a store; changes nothing.

    A file with a receipt is finished if it has the receipt's size. With `verify`, it must also be a valid feature file
    with the receipt's checksum. A file without a receipt is finished if it is a valid feature file. Each folder is
    listed once, and again for some seconds if a file is missing that a worker has just written.

    If maps are kept, `maps` is the ending of their names. A partition without its maps file must run. With `verify`,
    the maps file must be valid.
    """
    partitions = list(partitions)
    receipts = store.receipts()
    listing = Listing(store.folder)
    listing.look(partition.path.parent for partition in partitions)
    noted = {p.path: receipts[p.id] for p in partitions if p.id in receipts}
    listing.wait_for({path: r.bytes for path, r in noted.items() if may_be_late(r.written)}, sleep=sleep)
    state = StoreState(present=set(listing.names()))
    for partition in partitions:
        receipt, found = receipts.get(partition.id), listing.size(partition.path)
        if found is None:
            if receipt is not None:
                state.damaged.append(f"{partition.path}: the file is gone")
            state.todo.append(partition)
            continue
        try:
            if receipt is None:
                receipt = verify_partition(partition, store)
                state.adopted += 1
            elif found != receipt.bytes:
                raise ValueError(f"{found} bytes, not {receipt.bytes}")
            elif verify and verify_partition(partition, store).sha256 != receipt.sha256:
                raise ValueError("its checksum isn't the receipt's")
        except DAMAGE as error:
            state.damaged.append(f"{partition.path}: {error}")
            state.todo.append(partition)
            continue
        if maps and not _has_maps(partition, store, maps, state, verify=verify):
            state.todo.append(partition)
            continue
        state.finished[partition.id] = receipt
    return state


def _has_maps(partition: Partition, store: FeatureStore, ending: str, state: StoreState, *, verify: bool) -> bool:
    path = partition.path.with_suffix(ending)
    if path in state.present:
        if not verify:
            return True
        try:
            verify_maps(store.folder / path, partition.id, partition.rows)
            return True
        except DAMAGE as error:
            state.damaged.append(f"{path}: {error}")
    state.unmapped[partition.id] = path
    return False


def reconcile_store(state: StoreState, partitions: Iterable[Partition], store: FeatureStore) -> None:
    """Add missing receipts, set aside damaged and stale files, and remove temporary files.

    A file is stale if its inputs have changed, for example because a video was replaced. No worker may write meanwhile.

    Raises
    ------
    WorkspaceError
        When two of the remaining files hold the same frame.
    """
    wanted = list(partitions)
    if state.adopted:
        known = store.receipts()
        for receipt in state.finished.values():
            if receipt.id not in known:
                store.add_receipt(receipt)
    for partition in state.todo:
        damaged = state.unmapped.get(partition.id, partition.path)
        if damaged in state.present:
            path = store.folder / damaged
            path.replace(path.with_suffix(".damaged"))
    expected = {partition.path for partition in wanted}
    for stale in sorted(path for path in state.present if _features_of(path) not in expected):
        if stale.suffix in (".nc", ".zip"):
            log.warning("set aside %s: its inputs have changed", stale)
            (store.folder / stale).replace((store.folder / stale).with_suffix(".superseded"))
        elif stale.suffix == ".tmp" and stale.name.startswith("."):
            (store.folder / stale).unlink(missing_ok=True)
    check_disjoint({store.folder / p.path: (p.key, p.first, p.last) for p in wanted})


def _features_of(path: PurePosixPath) -> PurePosixPath:
    """Feature file of a maps file; any other path unchanged."""
    stem, found, _ = path.name.partition(".maps-")
    return path.with_name(f"{stem}.nc") if found and path.suffix == ".zip" else path


def remove_temporary_files(partitions: Iterable[Partition], store: FeatureStore) -> None:
    """Remove temporary files of killed workers. No worker may write meanwhile."""
    for folder in {(store.folder / partition.path).parent for partition in partitions}:
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
