"""Build networks of mmdet and mmpose from the configurations in their wheels."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from etl.errors import ModelError
from etl.models.auglift import mmcv_standin
from etl.models.auglift.catalog import Package
from etl.models.engines.network import Network
from etl.models.engines.torch_runtime import fill, load_checkpoint, seeded
from etl.models.geometry import Size

INSTALL: Final = "Run `make openmmlab` (or the pip lines in README); the embedded set works without."


class FixedSizeNetwork(Network):
    """A network of mmdet or mmpose whose input has a fixed size.

    Parameters
    ----------
    model : torch.nn.Module
        As `build` gives it.
    size : (int, int)
        Width and height of its input.
    outputs : sequence of str
        Names of its outputs.
    """

    def __init__(self, model: torch.nn.Module, size: Size, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model: Any = model
        self.size = size
        self.axes = {name: {0: "batch"} for name in ("images", *outputs)}

    def example(self, batch: int) -> torch.Tensor:
        """Noise of the size of the input."""
        width, height = self.size
        return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)

    def features(self, rgb: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps of the backbone and neck for RGB images (N, H, W, 3) uint8.

        Mean, deviation and the order of channels are those of the model's own data preprocessor.
        """
        preprocessor = self.model.data_preprocessor
        x = rgb.permute(0, 3, 1, 2)
        # The configurations are written for BGR images: swapping means that the network wants RGB.
        if not preprocessor._channel_conversion:
            x = x.flip(1)
        maps: tuple[torch.Tensor, ...] = self.model.extract_feat((x.float() - preprocessor.mean) / preprocessor.std)
        return maps


@cache
def import_packages() -> None:
    """Import mmdet and mmpose, with substitutes for missing packages.

    Raises
    ------
    ModelError
        When a package of the extra `openmmlab` is missing.
    """
    missing = [name for name in ("mmcv", "mmengine", "mmdet", "mmpose") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError("The set auglift needs the extra `openmmlab`.", f"no package {', '.join(missing)}", INSTALL)
    mmcv_standin.install()
    with warnings.catch_warnings():
        # They warn about their own use of deprecated interfaces, which users can't fix.
        warnings.simplefilter("ignore")
        importlib.import_module("mmdet.apis")
        with mmcv_standin.import_stubs():
            importlib.import_module("mmpose.apis")
    # Warnings at every call would fill the workers' logs.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"mmdet\.")
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)


def read_config(package: Package, path: str) -> Any:
    """Read a configuration from a package's wheel, without references to pretrained parts.

    Parameters
    ----------
    package : {"mmdet", "mmpose"}
        The package.
    path : str
        Relative to the package's ``.mim`` folder.

    Returns
    -------
    mmengine.Config
    """
    import_packages()
    from mmengine.config import Config

    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = Config.fromfile(Path(spec.origin).parent / ".mim" / path)
    config.model.backbone.init_cfg = None
    config.model.train_cfg = None
    return config


def build(config: Any, *, checkpoint: Path | None, seed: int = 0) -> torch.nn.Module:
    """Build the network of a configuration in evaluation mode on the host.

    Parameters
    ----------
    config : mmengine.Config
        From `read_config`.
    checkpoint : Path or None
        OpenMMLab's file; None draws random weights from `seed`, for tests.
    seed : int
        Of the random weights.

    Raises
    ------
    ModelError
        When the checkpoint is damaged or of another network.
    """
    import_packages()
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope

    scope: Package = config.default_scope
    registry = importlib.import_module(f"{scope}.registry").MODELS
    with seeded(seed), DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(registry.build(config.model))
    if checkpoint is not None:
        found = load_checkpoint(checkpoint, safe_globals())
        fill(model, found.get("state_dict", found), checkpoint)
    model.eval().requires_grad_(False)
    return model


def safe_globals() -> list[Any]:
    """Types beside weights that OpenMMLab's checkpoints contain: logged scalars of training, as numpy pickles them.

    Pairs of object and name map numpy 1's old names to the same objects. They also replace ``getattr`` by a function
    that gives the four statistics of a scalar's history and refuses all other attributes.
    """
    import_packages()
    from mmengine.logging.history_buffer import HistoryBuffer

    def statistic(owner: Any, name: str) -> Any:
        if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
            raise ModelError(
                "A checkpoint must name nothing but statistics of its scalars.",
                f"the file asks for {name} of {owner}",
                "Don't trust this file.",
            )
        return getattr(owner, name)

    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    renamed = [
        (getattr(multiarray, name), f"{package}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for package in ("numpy.core", "numpy._core")
    ]
    attributes = [(statistic, f"{package}.getattr") for package in ("builtins", "__builtin__")]
    dtypes = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [HistoryBuffer, np.ndarray, np.dtype, *renamed, *attributes, *dtypes]


def input_size(config: Any) -> Size:
    """Width and height of the network's input."""
    scale = (
        config.codec.input_size if "codec" in config else step(config.test_dataloader.dataset.pipeline, "Resize").scale
    )
    width, height = scale
    return width, height


def step(pipeline: Any, kind: str) -> Any:
    """The step `kind` (without its scope) of a configuration's pipeline."""
    return next(found for found in pipeline if found.type.split(".")[-1] == kind)
