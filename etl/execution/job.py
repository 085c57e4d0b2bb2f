"""One dataset of a configuration: its reader, keys, partitions and files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from etl.config import Config, DatasetSettings, EstimateSettings
from etl.datasets import registry
from etl.datasets.base import DatasetReader
from etl.errors import WorkspaceError
from etl.execution.resume import StoreState
from etl.stages.estimate import Estimator
from etl.stages.files.manifest import VERSION as ANNOTATE_VERSION
from etl.stages.identity import describe_stage, stage_key
from etl.stages.merge import SequenceFiles
from etl.store.partition import Partition, digest
from etl.store.partition_table import PartitionTable
from etl.store.workspace import FeatureStore, Workspace


@dataclass(frozen=True)
class DatasetJob:
    """A dataset to work on, with the objects that follow from the configuration; nothing runs here.

    Parameters
    ----------
    dataset : str
        Its name.
    config : Config
        The whole configuration.
    """

    dataset: str
    config: Config

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace."""
        return Workspace(self.config.workspace)

    @cached_property
    def settings(self) -> DatasetSettings:
        """The dataset's section of the configuration."""
        return self.config.datasets.selected()[self.dataset]

    @cached_property
    def reader(self) -> DatasetReader:
        """Reader of the raw dataset."""
        return registry.build(self.dataset, self.settings.root, **self.settings.reader_options())

    @cached_property
    def annotations_key(self) -> str:
        """Key of the annotations: a hash of the options that change their content. Filters of sequences don't."""
        return digest({"annotate": ANNOTATE_VERSION, "options": self.settings.content_options()}, length=12)

    @cached_property
    def annotations(self) -> Path:
        """Folder of the annotations."""
        return self.workspace.annotations(self.dataset, self.annotations_key)

    @cached_property
    def estimate_settings(self) -> EstimateSettings:
        """Settings of estimate, with `association` resolved."""
        settings = self.config.estimate
        if settings.association == "auto":
            chosen = "overlap" if self.settings.several_people else "person"
            settings = settings.model_copy(update={"association": chosen})
        return settings

    @cached_property
    def stage(self) -> dict[str, Any]:
        """Description that the stage key hashes."""
        return describe_stage(self.config.models, self.estimate_settings, self.settings.frame_options())

    @cached_property
    def store(self) -> FeatureStore:
        """Store of the feature files."""
        return self.workspace.features(self.dataset, stage_key(self.stage))

    @property
    def maps_ending(self) -> str:
        """Ending of the names of maps files; empty if no maps are kept."""
        embeddings = self.config.estimate.embeddings
        return embeddings.maps_ending if embeddings.keep_maps else ""

    @cached_property
    def estimator(self) -> Estimator:
        """Settings that are sent to the workers."""
        return Estimator(
            models=self.config.models,
            settings=self.estimate_settings,
            media_root=self.settings.root.resolve(),
            annotations=self.annotations.resolve(),
            features=self.store.folder.resolve(),
            description=json.dumps(self.stage, sort_keys=True),
        )

    def training_path(self, split: str) -> Path:
        """Path of a split's training file: an npz, or a folder of npy files."""
        ending = ".npz" if self.config.merge.format == "npz" else ""
        return self.workspace.training / f"{self.dataset}_xycd_{split}{ending}"

    def annotation_files(self) -> list[Path]:
        """Annotation files of the configured sequences, in order of their keys.

        Raises
        ------
        WorkspaceError
            When there are none yet.
        """
        wanted = [self.annotations / f"{s.key.path}.nc" for s in self.reader.sequences()]
        found = [path for path in wanted if path.exists()]
        if not found:
            raise WorkspaceError(
                "Partitions are cut from annotations.",
                f"none of {len(wanted)} sequences of {self.dataset} in {self.annotations}",
                f"Run `xycd annotate {self.dataset}` first, or look at `xycd failures`.",
            )
        return found

    @cached_property
    def table(self) -> PartitionTable:
        """Table of the partitions that earlier runs have cut."""
        folder = self.store.folder
        return PartitionTable(
            folder / f"partitions-{self.annotations_key}.json",
            self.dataset,
            self.annotations,
            stage_key=folder.name,
            frames=self.config.estimate.partition_frames,
            uses_boxes=self.estimator.uses_boxes,
        )

    def partitions(self, files: Iterable[Path]) -> list[Partition]:
        """Cut the annotated sequences into partitions."""
        names = [path.relative_to(self.annotations).as_posix() for path in files]
        return [partition for name in names for partition in self.table.partitions(name)]

    def merge_inputs(self, partitions: Iterable[Partition], state: StoreState) -> dict[str, list[SequenceFiles]]:
        """Annotation and finished feature files of each sequence with ground truth, by split."""
        features: dict[str, list[Path]] = {}
        for partition in partitions:
            files = features.setdefault(partition.annotation, [])
            if partition.id in state.finished:
                files.append(self.store.folder / partition.path)
        splits: dict[str, list[SequenceFiles]] = {}
        for name in features:
            entry = self.table.entry(name)
            if entry.has_truth:
                pair = SequenceFiles(self.annotations / name, tuple(features[name]))
                splits.setdefault(entry.split, []).append(pair)
        return splits
