"""Options of the model set `auglift`. No framework is imported, so that they can be checked anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from etl.errors import ConfigError
from etl.models.auglift.catalog import Processing, Sampling

Device = Literal["auto", "cuda", "cpu"]  # as in engines.torch_runtime, which imports torch
Precision = Literal["fp32", "bf16", "fp16"]
RuntimeName = Literal["auto", "torch", "onnxruntime"]
Part = Literal["detector", "pose", "depth"]


class AugliftSettings(BaseModel):
    """Options of the set; each has the published value as its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector: str = Field("rtmdet-m-person", description="RTMDet of etl.models.auglift.catalog.")
    pose: str = Field("rtmpose-l-384x288", description="RTMPose of etl.models.auglift.catalog.")
    depth: str = Field("depth-anything-v2-indoor-large", description="Depth Anything of etl.models.auglift.catalog.")
    detector_file: Path | None = Field(None, description="Checkpoint, instead of the cache's.")
    pose_file: Path | None = Field(None, description="Checkpoint, instead of the cache's.")
    depth_file: Path | None = Field(
        None, description="Weights as safetensors, or their folder, instead of the cache's."
    )
    weights: Literal["pretrained", "random"] = Field("pretrained", description="random is for tests only.")
    seed: int = Field(0, description="Seed of random weights.")

    device: Device = Field("auto", description="auto is CUDA if there is a GPU.")
    precision: Precision = Field("fp32", description="bf16 and fp16 through autocast.")
    detector_runtime: RuntimeName = Field(
        "auto", description="auto is torch on a GPU; on a CPU ONNX Runtime where it is installed, else torch."
    )
    pose_runtime: RuntimeName = Field("auto", description="As detector_runtime.")
    depth_runtime: RuntimeName = Field("auto", description="As detector_runtime.")
    channels_last: bool = Field(False, description="Memory order of torch's tensors; faster on GPUs in half precision.")
    compile: bool = Field(False, description="Use torch.compile, which takes a minute at the start of each worker.")
    detector_batch: int = Field(16, ge=1, description="Images at a time; halved when memory runs out.")
    pose_batch: int = Field(32, ge=1, description="Boxes at a time.")
    depth_batch: int = Field(8, ge=1, description="Images at a time.")

    min_score: float = Field(0.3, ge=0, lt=1, description="Least score of a box, exclusive.")
    max_overlap: float = Field(0.3, ge=0, le=1, description="Greatest IoU of two people.")
    flip_test: bool = Field(True, description="Average the pose with the mirrored crop's.")
    depth_processing: Processing = Field("transformers", description="Whose rule of resizing (see depth_anything.py).")
    inputs: Literal["auto", "host", "device"] = Field(
        "auto",
        description="Where the networks' inputs are made of the frames: auto is the device on a GPU, else the host. "
        "They agree within one of 255 levels, except at hard edges, where the input for depth can differ by 24.",
    )
    sampling: Sampling = Field("nearest_4", description="How embeddings are sampled from feature maps.")
    window: int = Field(3, ge=1, description="Width in cells, odd, of the window for sampling = average.")
    compat: Literal["auglift"] | None = Field(
        None, description="auglift: resize for depth, and place joints on feature maps, as the published scripts do."
    )

    @field_validator("window")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value

    @model_validator(mode="after")
    def _on_torch_only(self) -> Self:
        if self.inputs == "device" and "onnxruntime" in self.runtimes.values():
            raise ValueError("inputs = 'device' needs networks on torch, not on onnxruntime")
        for part, runtime in self.runtimes.items():
            if runtime in ("auto", "torch"):
                continue
            if self.device == "cuda" or self.precision != "fp32":
                asked = f"device = {self.device!r}, precision = {self.precision!r}"
                raise ValueError(f"{part}_runtime = {runtime!r} computes in fp32 on the CPU, not with {asked}")
        return self

    @property
    def runtimes(self) -> dict[Part, RuntimeName]:
        """Configured runtime of each network."""
        return {"detector": self.detector_runtime, "pose": self.pose_runtime, "depth": self.depth_runtime}

    @property
    def processing(self) -> Processing:
        """Resizing for depth that is used."""
        return "authors" if self.compat else self.depth_processing


def parse(options: AugliftSettings | Mapping[str, Any] | None) -> AugliftSettings:
    """Validate options.

    Raises
    ------
    ConfigError
        Naming every option that is unknown or out of range.
    """
    if isinstance(options, AugliftSettings):
        return options
    try:
        return AugliftSettings.model_validate(dict(options or {}))
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(AugliftSettings.model_fields)
        raise ConfigError(
            "Options of the set auglift must be known and have valid values.", found, f"Known options: {known}."
        ) from error
