"""Networks of the set `auglift`, by name: configuration, URL, licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from etl.errors import ConfigError

Package = Literal["mmdet", "mmpose"]
Processing = Literal["transformers", "authors"]
Sampling = Literal["nearest_1", "nearest_2", "nearest_4", "bilinear", "average"]

PATCH: Final = 14
"""Side of the patches of Depth Anything, px of its input."""
# Of the last stage of RTMPose's backbone: input px per cell.
_STRIDE: Final = 32

_MMPOSE: Final = "https://download.openmmlab.com/mmpose/v1/projects"
_MMDET: Final = "https://download.openmmlab.com/mmdetection/v3.0/rtmdet"


@dataclass(frozen=True)
class OpenMMLabNetwork:
    """A detector of mmdet or a pose estimator of mmpose.

    Parameters
    ----------
    name : str
        Name in a configuration.
    package, config : str
        The wheel with its configuration, and the path below the wheel's ``.mim``.
    url : str
        Of the checkpoint.
    licence : str
        SPDX identifier of the weights.
    also : tuple of str
        SHA-256 of other files published under this name.
    channels : int
        Of the last stage of a pose estimator's backbone; 0 for detectors.
    grid : (int, int)
        Columns and rows of that stage.
    """

    name: str
    package: Package
    config: str
    url: str
    licence: str = "Apache-2.0"
    also: tuple[str, ...] = ()
    channels: int = 0
    grid: tuple[int, int] = (0, 0)

    @property
    def file(self) -> str:
        """Name of the checkpoint."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def sha256_prefix(self) -> str:
        """First digits of the checkpoint's SHA-256: OpenMMLab puts eight into the file's name."""
        return self.file.removesuffix(".pth").split("-")[-1].split("_")[0]


@dataclass(frozen=True)
class DepthNetwork:
    """A metric Depth Anything V2.

    Parameters
    ----------
    name : str
        Name in a configuration.
    size : {"tiny", "small", "base", "large"}
        Of the vision transformer; ``tiny`` has no weights and is for tests.
    max_depth : float
        Metres: 20 indoors (Hypersim), 80 outdoors (Virtual KITTI).
    repository, revision : str
        Where ``model.safetensors`` lies on the Hugging Face hub; empty for ``tiny``.
    licence : str
        SPDX identifier of the weights; base and large exclude commercial use.
    """

    name: str
    size: str
    max_depth: float
    repository: str
    revision: str
    licence: str

    @property
    def file(self) -> str:
        """Name of the weights in the cache."""
        return f"{self.repository.rsplit('/', 1)[-1] or self.name}.safetensors"

    @property
    def channels(self) -> int:
        """Of the neck's levels."""
        return _VIT[self.size][-1]

    @property
    def url(self) -> str:
        """Of the weights."""
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision}/model.safetensors"


def _detector(size: str, stamp: str) -> OpenMMLabNetwork:
    name = f"rtmdet_{size}_8xb32-300e_coco"
    return OpenMMLabNetwork(
        f"rtmdet-{size}", "mmdet", f"configs/rtmdet/{name}.py", f"{_MMDET}/{name}/{name}_{stamp}.pth"
    )


def _person_detector(size: str, side: int, digest: str, *also: str) -> OpenMMLabNetwork:
    # mmpose's wheel has these configurations of mmdet's networks; their only class is "person".
    return OpenMMLabNetwork(
        f"rtmdet-{size}-person",
        "mmpose",
        f"demo/mmdetection_cfg/rtmdet_{size}_{side}-8xb32_coco-person.py",
        f"{_MMPOSE}/rtmpose/rtmdet_{size}_8xb32-100e_coco-obj365-person-{digest}.pth",
        also=also,
    )


def _pose(size: str, shape: str, digest: str) -> OpenMMLabNetwork:
    height, width = map(int, shape.split("x"))
    return OpenMMLabNetwork(
        f"rtmpose-{size}" + ("-384x288" if shape == "384x288" else ""),
        "mmpose",
        f"configs/body_2d_keypoint/rtmpose/body8/rtmpose-{size}_8xb256-420e_body8-{shape}.py",
        f"{_MMPOSE}/rtmposev1/rtmpose-{size}_simcc-body7_pt-body7_420e-{shape}-{digest}_20230504.pth",
        channels={"t": 384, "s": 512, "m": 768, "l": 1024}[size],
        grid=(width // _STRIDE, height // _STRIDE),
    )


def _depth(scene: str, size: str, revision: str = "main") -> DepthNetwork:
    licence = {"tiny": "", "small": "Apache-2.0"}.get(size, "CC-BY-NC-4.0")
    return DepthNetwork(
        f"depth-anything-v2-{scene}-{size}",
        size,
        {"indoor": 20.0, "outdoor": 80.0}[scene],
        f"depth-anything/Depth-Anything-V2-Metric-{scene.title()}-{size.title()}-hf" if size != "tiny" else "",
        revision if size != "tiny" else "",
        licence,
    )


Network = TypeVar("Network", OpenMMLabNetwork, DepthNetwork)


def _by_name(*networks: Network) -> Mapping[str, Network]:
    return {network.name: network for network in networks}


DETECTORS: Final = _by_name(
    _person_detector("nano", 320, "05d8511e"),
    # The second hash is of a widely used copy on the Hugging Face hub.
    _person_detector("m", 640, "235e8209", "b66b27072c6a3cd4f093882df440921987076131fb78a7df7b1cf92d67f41509"),
    _detector("tiny", "20220902_112414-78e30dcc"),
    _detector("s", "20220905_161602-387a891e"),
    _detector("m", "20220719_112220-229f527c"),
    _detector("l", "20220719_112030-5a0be7c4"),
)
POSE_ESTIMATORS: Final = _by_name(
    _pose("t", "256x192", "026a1439"),
    _pose("s", "256x192", "acd4a1ef"),
    _pose("m", "256x192", "e48f03d0"),
    _pose("l", "256x192", "4dba18fc"),
    _pose("m", "384x288", "65e718c4"),
    _pose("l", "384x288", "3f5a1437"),
)
DEPTH_ESTIMATORS: Final = _by_name(
    _depth("indoor", "tiny"),
    _depth("indoor", "small", "fa6588c2c6046082d0d3faa8d8e10ca47fcfc1d4"),
    _depth("indoor", "base", "9137e70c71249fa39bad01abe8b48781a013c9a7"),
    _depth("indoor", "large", "719f4a6b8b78707d94d2671fa219bd253a6c4b62"),
    _depth("outdoor", "tiny"),
    _depth("outdoor", "small"),
    _depth("outdoor", "base"),
    _depth("outdoor", "large"),
)

# Vision transformers of Depth Anything V2: width, heads, layers, the four layers that the neck takes, the
# neck's widths, and the width of its fusion. As in the published config.json files; tiny is ours.
_VIT: Final[Mapping[str, tuple[int, int, int, list[int], list[int], int]]] = {
    "tiny": (48, 3, 4, [1, 2, 3, 4], [12, 24, 48, 48], 32),
    "small": (384, 6, 12, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "base": (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
    "large": (1024, 16, 24, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
}


def depth_config(network: DepthNetwork) -> Any:
    """The network's shape, as a configuration of transformers."""
    from transformers import DepthAnythingConfig, Dinov2Config

    width, heads, layers, taken, neck, fusion = _VIT[network.size]
    backbone = Dinov2Config(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        out_indices=taken,
        image_size=518,
        patch_size=PATCH,
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=width,
        neck_hidden_sizes=neck,
        fusion_hidden_size=fusion,
        depth_estimation_type="metric",
        max_depth=int(network.max_depth),
    )


def find(networks: Mapping[str, Network], name: str) -> Network:
    """The network called `name`.

    Raises
    ------
    ConfigError
        When there is none.
    """
    if name not in networks:
        raise ConfigError(
            "The name must be that of a known network.",
            f"unknown network {name!r}",
            f"Choose one of {', '.join(networks)}.",
        )
    return networks[name]
