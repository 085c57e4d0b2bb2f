"""Results by name: features of any subject, action and camera, as labelled arrays; during a run and after it.

A file counts when the index of receipts names it and it has the size that its receipt says; files appear under their
final names only when they are complete. So a query never reads an incomplete file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from etl.errors import QueryError, WorkspaceError
from etl.results.conditions import parse
from etl.results.reading import CONDITION_NAMES, Block, Layout, RowFilter, Source, kept_maps, read_block
from etl.results.selection import Completeness, Names, Numbers, fits, frame_range, in_lines, in_words, is_open
from etl.store.listing import Listing, may_be_late
from etl.store.partition import Receipt
from etl.store.workspace import FeatureStore, Workspace
from schemas.features import Status
from schemas.keys import SequenceKey

if TYPE_CHECKING:
    import xarray as xr

PATIENCE = (0.1, 0.4, 1.5)  # seconds between looks for a file that is late; a query is waited for
LARGE = 256 << 20  # bytes of files above which arrays are lazy


@dataclass(frozen=True)
class Annotated:
    """Facts of an annotated sequence."""

    split: str
    rows: int


@dataclass(frozen=True)
class Features:
    """A selection of feature files; nothing is read before it is asked for.

    Parameters
    ----------
    dataset : str
        Its name.
    store : FeatureStore
        Where the files are.
    annotations : Path
        Folder of the annotation files.
    receipts : tuple of (SequenceKey, Receipt)
        Of the selection, sorted; what they name may be gone.
    annotated : mapping of SequenceKey to Annotated
        Sequences of the selection.
    wanted : RowFilter
        Which rows of the files.
    """

    dataset: str
    store: FeatureStore
    annotations: Path
    receipts: tuple[tuple[SequenceKey, Receipt], ...]
    annotated: Mapping[SequenceKey, Annotated] = field(repr=False)
    wanted: RowFilter = field(default_factory=RowFilter)

    def __repr__(self) -> str:
        keys = {key for key, _ in self.receipts} | set(self.annotated)
        return in_lines(
            self.dataset, [r.counts for _, r in self.receipts], keys, filtered=not self.wanted.is_everything
        )

    def sel(
        self,
        *,
        subject: Names = None,
        action: Names = None,
        subaction: Numbers = None,
        camera: Names = None,
        split: Names = None,
        status: Names = None,
        frame: Numbers = None,
        where: str | None = None,
    ) -> Features:
        """Narrow the selection.

        Parameters
        ----------
        subject, action, camera, split : str, sequence or array of str, optional
            Names, or patterns such as ``S*``.
        subaction : int, slice, sequence or array of int, optional
            Numbers of repetitions.
        status : str, sequence or array of str, optional
            Only rows of this status: ok, no_person, decode_error, model_error, not_run.
        frame : int, slice, sequence or array of int, optional
            Frame numbers. A slice includes its end, as xarray's selection by label does.
        where : str, optional
            Condition on joints, e.g. ``confidence < 0.3 and joint == 'left_knee'``: the features of other joints
            are NaN, and rows without such a joint are left out. Names: features, frame, person, status, bbox_score,
            joint, joint_valid, error_px.

        Raises
        ------
        WorkspaceError
            When neither finished nor annotated sequences fit.
        QueryError
            When the status or the condition can't be understood.
        """
        wanted = self._rows(status, frame, where)
        keys = sorted({key for key, _ in self.receipts} | set(self.annotated))
        fields: dict[str, Any] = {"subject": subject, "action": action, "subaction": subaction, "camera": camera}
        for name, chosen in {**fields, "split": split}.items():
            if is_open(chosen):
                continue
            values = {key: self.split(key) if name == "split" else getattr(key, name) for key in keys}
            keys = [key for key in keys if fits(values[key], chosen)]
            if not keys:
                there = ", ".join(str(v) for v in sorted(set(values.values()))) or "none"
                raise WorkspaceError(
                    f"The selection must have sequences of {name} {in_words(chosen)}.",
                    f"{name}s there: {there}",
                    f"Give one of these, or wait until the run gets to {in_words(chosen)}.",
                )
        left = set(keys)
        return replace(
            self,
            receipts=tuple(item for item in self.receipts if item[0] in left),
            annotated={key: value for key, value in self.annotated.items() if key in left},
            wanted=wanted,
        )

    def _rows(self, status: Names, frame: Numbers, where: str | None) -> RowFilter:
        wanted = self.wanted
        if status is not None and not is_open(status):
            names = [status] if isinstance(status, str) else list(status)
            if unknown := [name for name in names if name.upper() not in Status.__members__]:
                known = ", ".join(s.name.lower() for s in Status)
                found = f"unknown status {', '.join(unknown)}"
                raise QueryError("A status must be one of the known ones.", found, f"Give one of: {known}.")
            statuses = tuple(sorted(Status[name.upper()] for name in names))
            if wanted.statuses is not None:
                statuses = tuple(s for s in statuses if s in wanted.statuses)
            wanted = replace(wanted, statuses=statuses)
        if frame is not None:
            if isinstance(frame, slice) and (frame.step or 1) < 1:
                raise QueryError("The step of frames must be positive.", f"step {frame.step}", "Give a positive step.")
            single = (frame,) if isinstance(frame, int | np.integer) else frame
            numbers = single if isinstance(single, slice) else tuple(int(n) for n in single)
            wanted = replace(wanted, frames=(*wanted.frames, numbers))
        if where is not None:
            wanted = replace(wanted, conditions=(*wanted.conditions, parse(where, CONDITION_NAMES)))
        return wanted

    def split(self, key: SequenceKey) -> str:
        """The split of a sequence; empty where it isn't known."""
        known = self.annotated.get(key)
        return known.split if known else ""

    @cached_property
    def files(self) -> tuple[tuple[SequenceKey, Receipt], ...]:
        """Receipts of the selection whose files are there, as their receipts say."""
        absent = [receipt for _, receipt in self.receipts if not self._is_there(receipt)]
        lost = {receipt.path for receipt in absent}
        late = {PurePosixPath(r.path): r.bytes for r in absent if may_be_late(r.written)}
        if late:  # on a shared disk, what a worker has just written may show later here
            shelf = Listing(self.store.folder)
            shelf.wait_for(late, pauses=PATIENCE)
            lost -= {path.as_posix() for path, count in late.items() if shelf.size(path) == count}
        return tuple(item for item in self.receipts if item[1].path not in lost)

    def _is_there(self, receipt: Receipt) -> bool:
        try:
            return os.stat(f"{self.store.folder}/{receipt.path}").st_size == receipt.bytes  # noqa: PTH116 - 10x faster
        except FileNotFoundError:
            return False

    def paths(self) -> list[Path]:
        """The files that may have wanted rows, in order."""
        return [source.path for source in self.sources()]

    def sources(self) -> list[Source]:
        """The files that may have wanted rows, with what is known of them, in order."""
        return [
            Source(
                path=self.store.folder / receipt.path,
                key=key,
                split=self.split(key),
                rows=receipt.rows,
                annotation=self.annotations / f"{key.path}.nc",
            )
            for key, receipt in self.files
            if self.wanted.may_have(*frame_range(receipt.path))
        ]

    @cached_property
    def layout(self) -> Layout:
        """Layout that the files share."""
        for _, receipt in self.files:
            try:
                return Layout.of(self.store.folder / receipt.path)
            except (OSError, KeyError):  # set aside since, or damaged; `completeness` counts it
                continue
        return Layout()

    @cached_property
    def layout_with_maps(self) -> Layout:
        """`layout`, and that of the feature maps beside the files; where there are several sizes, of the newest.

        Raises
        ------
        QueryError
            When none of the selection's files has maps.
        ConfigError
            When the package zarr is absent.
        """
        kept = kept_maps([self.store.folder / receipt.path for _, receipt in self.files])
        if kept is None:
            raise QueryError(
                "Feature maps need a run that keeps them.",
                f"none beside the {len(self.files):,} finished files of the selection",
                "Set estimate.embeddings.keep_maps = true and run `xycd estimate` again.",
            )
        return replace(self.layout, maps=kept[0], maps_ending=kept[1])

    def blocks(self, variables: Sequence[str] = (), layout: Layout | None = None) -> Iterator[Block]:
        """The wanted rows, file by file, as plain arrays; see `etl.results.reading.read_block`.

        Files that can't be read any more are passed over; `completeness` names them.
        """
        layout = layout or self.layout
        for source in self.sources():
            try:
                yield read_block(source, layout, variables, self.wanted)
            except (OSError, KeyError):
                self._unreadable.append(source.path.relative_to(self.store.folder).as_posix())

    @cached_property
    def _unreadable(self) -> list[str]:
        return []

    def load(self, *, annotations: bool = False, variables: Sequence[str] | None = None) -> xr.Dataset:
        """The selected rows as one dataset in memory; see `to_xarray`."""
        return self.to_xarray(annotations=annotations, variables=variables, lazy=False)

    def to_xarray(
        self,
        *,
        annotations: bool = False,
        maps: bool = False,
        variables: Sequence[str] | None = None,
        lazy: bool | None = None,
    ) -> xr.Dataset:
        """The selected rows as one dataset.

        Parameters
        ----------
        annotations : bool
            Joined with the annotations on person and frame: keypoints_2d (px), keypoints_3d (m, camera), visibility,
            center, scale, valid_annotation, and error_px, the distance of detected and annotated joints.
        maps : bool
            With the feature maps of the networks, where a run kept them: the variables of `schemas.maps`. NaN for
            files that have none.
        variables : sequence of str, optional
            Only these.
        lazy : bool, optional
            With dask arrays, which are read when they are computed, or in memory; by default lazy above 256 MB of
            files. Rows that are chosen by status, frame or condition are found at once either way.

        Returns
        -------
        xr.Dataset
            Variables of `schemas.features` over frame, joint, feature; embeddings as float16; along `frame` the
            coordinates subject, action, subaction, camera, split, frame_number, person. The attributes
            ``complete``, ``rows_annotated`` and ``rows_finished`` say how much of the selection is there.

        Raises
        ------
        QueryError
            When a variable isn't there, or no maps are.
        """
        from etl.results import labelled

        layout = self.layout_with_maps if maps else self.layout
        chosen = labelled.variables_of(layout, annotations=annotations, wanted=variables)
        if lazy is None:
            of_maps = labelled.bytes_of_row(layout, {variable.name for variable in layout.maps} & set(chosen))
            lazy = sum(receipt.bytes + receipt.rows * of_maps for _, receipt in self.files) > LARGE
        if lazy:
            sources, counts = self.sources(), None
            if not self.wanted.is_everything:
                found = {block.source: len(block) for block in self.blocks()}
                sources, counts = list(found), list(found.values())
            ds = labelled.lazily(sources, layout, chosen, self.wanted, counts or [s.rows for s in sources])
        else:
            ds = labelled.in_memory(self.blocks(chosen, layout), layout, chosen)
        return ds.assign_attrs(self.attributes())

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of a dataset that state the completeness of the selection."""
        state = self.completeness()
        known = {} if state.annotated is None else {"rows_annotated": state.annotated}
        return {"dataset": self.dataset, "complete": int(state.complete), "rows_finished": state.finished} | known

    def completeness(self) -> Completeness:
        """Return how complete the sequences of the selection are, whatever rows are chosen.

        Files that couldn't be read when rows were asked for count as lost from then on.
        """
        unreadable = set(self._unreadable)
        files = [(key, receipt) for key, receipt in self.files if receipt.path not in unreadable]
        lost = {receipt.path for _, receipt in self.receipts} - {receipt.path for _, receipt in self.files}
        # A file of inputs that have changed since is no loss: another one has its frames, or will have.
        live = {(key, frame_range(receipt.path)) for key, receipt in self.files}
        gone = {r.path for key, r in self.receipts if r.path in lost and (key, frame_range(r.path)) not in live}
        set_aside = {path for path in gone if (self.store.folder / path).with_suffix(".superseded").exists()}
        return Completeness(
            annotated=sum(known.rows for known in self.annotated.values()) if self.annotated else None,
            finished=sum(receipt.rows for _, receipt in files),
            ok=sum(receipt.counts.get("ok", 0) for _, receipt in files),
            partitions=len(files),
            lost=tuple(sorted((gone - set_aside) | unreadable)),
        )

    def consolidate(
        self, path: Path | str, *, annotations: bool = False, variables: Sequence[str] | None = None
    ) -> Path:
        """Write the selection as one Zarr store, which is faster to read than many files; memory stays bounded.

        Parameters
        ----------
        path : Path
            The store, a folder; an older one is replaced when the new one is whole.
        annotations, variables
            As for `to_xarray`.

        Raises
        ------
        QueryError
            When the package zarr is absent, or there is something else at `path`.
        """
        from etl.results.export import write_zarr

        return write_zarr(self, Path(path), annotations=annotations, variables=variables)


def open_features(workspace: Path | str, dataset: str | None = None) -> Features:
    """Open the features that the last run made, finished or not.

    Parameters
    ----------
    workspace : Path
        The folder of results.
    dataset : str, optional
        Optional if the workspace has only one dataset.

    Raises
    ------
    WorkspaceError
        When there are none.
    """
    space = Workspace(Path(workspace))
    if dataset is None:
        known = space.datasets()
        if len(known) > 1:
            found = f"several: {', '.join(known)}"
            raise WorkspaceError("A query needs one dataset.", found, f"Name one: xycd query {known[0]}")
        dataset = known[0] if known else "any dataset"
    current = space.current(dataset)
    if current.features is None:
        rule = "Features need a run of estimate."
        raise WorkspaceError(rule, f"only annotations of {dataset}", f"Run `xycd estimate {dataset}`.")
    store = space.features(dataset, current.features)
    annotations = space.annotations(dataset, current.annotations)
    keys: dict[str, SequenceKey] = {}  # a dataset has far fewer sequences than files
    receipts = []
    for receipt in store.receipts().values():
        folder = receipt.path.rpartition("/")[0]
        if folder not in keys:
            keys[folder] = SequenceKey.from_path(dataset, folder)
        receipts.append((keys[folder], receipt))
    receipts.sort(key=lambda item: item[1].path)
    receipts.sort(key=lambda item: item[0])
    return Features(dataset, store, annotations, tuple(receipts), _annotated(dataset, annotations))


def _annotated(dataset: str, folder: Path) -> dict[SequenceKey, Annotated]:
    """Read the annotated sequences from the manifest."""
    try:
        content = json.loads((folder / "manifest.json").read_bytes())
        return {
            SequenceKey.from_path(dataset, path.removesuffix(".nc")): Annotated(entry["split"], entry["rows"])
            for path, entry in content["sequences"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # missing, or from a later version: features can be read without it
