"""The sections of the configuration, as frozen, validated models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cluster.config import ClusterConfig

Names = Annotated[tuple[str, ...] | None, Field(min_length=1)]


class Settings(BaseModel):
    """Base of all sections: frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class DatasetSettings(Settings):
    """Settings that every dataset has."""

    filters: ClassVar[frozenset[str]] = frozenset({"subjects", "actions", "cameras"})
    several_people: ClassVar[bool] = False

    root: Path = Field(description="Folder of the raw dataset.")

    def reader_options(self) -> dict[str, Any]:
        """Return the keyword arguments of the dataset's reader."""
        return {name: value for name, value in self if name != "root" and value is not None}

    def content_options(self) -> dict[str, Any]:
        """Return the options that change annotations: all but the filters of sequences."""
        return {k: v for k, v in self.reader_options().items() if k not in self.filters}

    def frame_options(self) -> dict[str, Any]:
        """Return the options that choose frames. They are part of the stage key of estimate.

        Other options change joints or splits, which features don't depend on. Annotated boxes, if they are used, are
        part of each partition's identity.
        """
        return {k: v for k, v in self.reader_options().items() if k == "hz"}


class H36MSettings(DatasetSettings):
    """Human3.6M."""

    hz: Literal[50, 25, 10] = Field(25, description="Rows per second; the videos have 50 frames per second.")
    subjects: Names = Field(None, description="Subjects to keep, of S1 S5 S6 S7 S8 S9 S11; default: all.")
    actions: Names = Field(None, description="Actions to keep, e.g. Directions; default: all.")
    cameras: Names = Field(None, description="Cameras to keep, of 54138969 55011271 58860488 60457274; default: all.")
    correct_s9_shift: bool = Field(
        False, description="Undo the shift of 200 mm in the 3D joints of three sequences of S9."
    )


class FolderSettings(DatasetSettings):
    """Any tree of images and videos, without ground truth."""


class ThreeDPWSettings(DatasetSettings):
    """3D Poses in the Wild."""

    several_people: ClassVar[bool] = True

    subjects: Names = Field(None, description="Scenes to keep, e.g. downtown; default: all.")
    actions: Names = Field(None, description="Actions to keep, e.g. walking; default: all.")


class MpiInf3DHPSettings(DatasetSettings):
    """MPI-INF-3DHP."""

    filters: ClassVar[frozenset[str]] = DatasetSettings.filters | {"camera_set"}

    camera_set: Literal["vnect", "chest", "all"] = Field(
        "vnect", description="Set of cameras: vnect has 8 of the 14, chest 5."
    )
    hz: Literal[50, 25] | None = Field(None, description="Rows per second of the training set; default: every frame.")
    subjects: Names = Field(None, description="Subjects to keep, of S1 … S8 TS1 … TS6; default: all.")
    actions: Names = Field(None, description="Actions to keep, of Seq1 Seq2 Test; default: all.")
    cameras: Names = Field(None, description="Cameras to keep, of 0 … 13; default: all of the camera set.")


class Fit3DSettings(DatasetSettings):
    """Fit3D."""

    hz: Literal[50, 25] = Field(25, description="Rows per second; the videos have 50 frames per second.")
    train: tuple[str, ...] = Field(
        ("s03", "s04", "s05", "s07", "s08", "s09"), description="Subjects of the split train."
    )
    test: tuple[str, ...] = Field(("s10", "s11"), description="Subjects of the split test.")
    subjects: Names = Field(None, description="Subjects to keep; default: all.")
    actions: Names = Field(None, description="Actions to keep; default: all.")
    cameras: Names = Field(None, description="Cameras to keep; default: all.")


class Datasets(Settings):
    """Datasets of a run: those whose section is present."""

    h36m: H36MSettings | None = None
    threedpw: ThreeDPWSettings | None = Field(None, alias="3dpw")
    mpi_inf_3dhp: MpiInf3DHPSettings | None = Field(None, alias="3dhp")
    fit3d: Fit3DSettings | None = None
    folder: FolderSettings | None = None

    def selected(self) -> dict[str, DatasetSettings]:
        """Return the settings of the configured datasets, by name."""
        fields = type(self).model_fields
        return {fields[name].alias or name: value for name, value in self if value is not None}


class ModelSettings(Settings):
    """The model set and its options."""

    set: str = Field("embedded", description="Name of a model set (`xycd models list`), or module:factory.")
    options: dict[str, Any] = Field({}, description="Options of the model set.")
    cache: Path | None = Field(None, description="Folder of the model files; default: the user's cache.")


class DescriptorConfig(Settings):
    """The depth descriptor of a joint; see etl.stages.blocks.descriptor."""

    radius: Literal["adaptive", "linear"] = Field(
        "adaptive",
        description="Radius of the neighbourhood: linear grows as confidence falls, adaptive with the person too.",
    )
    radius_min: float = Field(3.0, gt=0, description="Smallest radius, px.")
    radius_max: float = Field(30.0, gt=0, le=200, description="Largest radius, px.")
    depth_source: Literal["point", "median", "min3"] = Field(
        "point",
        description="Value of the feature depth: at the joint, median of the neighbourhood, or minimum within 3 px.",
    )
    statistics: bool = Field(
        False, description="Whether to store the optional statistics: mean, std, quantiles, mad and others."
    )
    compat: Literal["auglift"] | None = Field(
        None,
        description="auglift: reproduce the numbers of the published scripts, with their faults and random sample.",
    )

    @model_validator(mode="after")
    def _check_compat(self) -> Self:
        if self.compat and not (self.statistics and self.depth_source in ("median", "min3")):
            raise ValueError(
                "compat = 'auglift' needs statistics = true, and depth_source = 'median' (scripts v3) or 'min3' (v4)"
            )
        return self


Cells = Annotated[int, Field(ge=1, le=128)]


class EmbeddingSettings(Settings):
    """Features of the pose and the depth network; `embeddings = true` is short for `enabled = true`."""

    enabled: bool = Field(
        False, description="Whether to store the networks' features at the joints; `keep_maps` turns it on."
    )
    keep_maps: bool = Field(
        False,
        description="Whether to store their feature maps too, averaged over coarser cells (Zarr).",
    )
    pose_map: tuple[Cells, Cells] = Field(
        (3, 4), description="Columns and rows of the stored map of the person's crop."
    )
    depth_map: tuple[Cells, Cells] = Field((8, 8), description="Columns and rows of the stored map of the image.")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {"enabled": value}
        if isinstance(value, Mapping) and value.get("keep_maps") is True:
            return {"enabled": True, **value}
        return value

    @model_validator(mode="after")
    def _check_maps(self) -> Self:
        if self.keep_maps and not self.enabled:
            raise ValueError("maps are kept beside the features at the joints: keep_maps = true needs enabled = true")
        return self

    @property
    def map_sizes(self) -> dict[str, tuple[int, int]]:
        """Columns and rows of the stored maps, by stream."""
        return {"pose": self.pose_map, "depth": self.depth_map}

    @property
    def maps_ending(self) -> str:
        """Suffix of a maps file, in place of its feature file's ``.nc``."""
        sizes = (f"{columns}x{rows}" for columns, rows in self.map_sizes.values())
        return f".maps-{'-'.join(sizes)}.zarr.zip"


class EstimateSettings(Settings):
    """Settings of estimate, apart from the models."""

    partition_frames: int = Field(
        512, ge=1, le=100_000, description="Frames per partition, which is one task and one file."
    )
    batch: int = Field(16, ge=1, le=1024, description="Frames per call of the models.")
    decode_ahead_mb: int = Field(256, ge=8, description="Memory for frames decoded ahead, in MiB per worker.")
    max_pixels: int = Field(
        100_000_000, ge=1, description="Largest image in pixels; larger ones are refused before decoding."
    )
    person: Literal["keypoint_score", "largest_box"] = Field(
        "keypoint_score", description="Rule that chooses one of several detected people."
    )
    association: Literal["auto", "person", "overlap", "ground_truth_box"] = Field(
        "auto",
        description="How detections are assigned to annotated people: by the rule `person`, by overlap with the "
        "annotated box, or by estimating the pose in that box. auto is overlap for datasets with several people "
        "per frame, else person.",
    )
    min_overlap: float = Field(0.3, ge=0, le=1, description="Smallest IoU for association by overlap.")
    field_of_view: float = Field(
        55.0,
        gt=1,
        lt=179,
        description="Field of view along the longer image side if the camera is unknown, in degrees.",
    )
    embeddings: EmbeddingSettings = EmbeddingSettings()
    descriptor: DescriptorConfig = DescriptorConfig()


class MergeSettings(Settings):
    """Settings of merge, which writes the training files."""

    format: Literal["npz", "npy"] = Field(
        "npz", description="One npz, or a folder of npy files that can be memory-mapped."
    )
    part: Literal["truth", "detected"] = Field(
        "truth", description="Joints in the key `part`: ground truth or detected."
    )
    casp_extremes: Literal["quantile", "minmax"] = Field(
        "quantile", description="Extremes in the descriptor vectors: q10 and q90, or minimum and maximum."
    )
    allow_missing: bool = Field(
        False, description="Whether to write frames that estimate hasn't finished, as invalid rows."
    )
    judge: Literal["refuse", "warn", "off"] = Field(
        "refuse",
        description="What to do if the detections of a sequence fit another time, side or camera better.",
    )
    compat: Literal["auglift"] | None = Field(
        None, description="auglift: write vectors as the published scripts do (float16, raw scores, zeros)."
    )
    workers: int = Field(1, ge=1, le=64, description="Number of processes.")


def _path(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) else value


class Config(Settings):
    """The whole configuration."""

    workspace: Annotated[Path, BeforeValidator(_path)] = Field(
        Path("xycd-workspace"), description="Folder of all results."
    )
    datasets: Datasets = Datasets()
    models: ModelSettings = ModelSettings()
    estimate: EstimateSettings = EstimateSettings()
    merge: MergeSettings = MergeSettings()
    cluster: ClusterConfig = ClusterConfig()


def to_json(settings: BaseModel) -> str:
    """Return canonical JSON of any part of a configuration: sorted keys, no spaces."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
