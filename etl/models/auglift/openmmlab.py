"""Networks of mmdet and mmpose, built from the configurations that their wheels carry."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from etl.errors import ModelError
from etl.models.auglift import mmcv_standin
from etl.models.auglift.catalog import Package
from etl.models.engines.torch_runtime import fill, load_checkpoint, seeded

INSTALL: Final = "Run `make openmmlab` (or the pip lines in README); the embedded set works without."


@cache
def import_packages() -> None:
    """Import mmdet and mmpose, with the stand-ins that they need here.

    Raises
    ------
    ModelError
        When a package of the extra `openmmlab` is missing.
    """
    missing = [name for name in ("mmcv", "mmengine", "mmdet", "mmpose") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError("The set auglift needs the extra `openmmlab`.", f"no {', '.join(missing)}", INSTALL)
    mmcv_standin.install()
    with warnings.catch_warnings():
        # They warn about their own use of deprecated interfaces; nothing that a user could fix.
        warnings.simplefilter("ignore")
        importlib.import_module("mmdet.apis")
        with mmcv_standin.import_stubs():
            importlib.import_module("mmpose.apis")
    # What they warn about at every use would fill the logs of every worker.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"mmdet\.")
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)


def read_config(package: Package, path: str) -> Any:
    """Configuration `path` of a package's wheel (below its ``.mim``), without references to pretrained parts.

    Parameters
    ----------
    package : {"mmdet", "mmpose"}
        Whose configuration.
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
        As `read_config` gives it.
    checkpoint : Path or None
        File of OpenMMLab; None draws random weights from `seed`, for tests.
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
    """Types beside weights that OpenMMLab's checkpoints carry: logged scalars of training, as numpy pickles them.

    The pairs give numpy's old names, which files of numpy 1 use, to the same objects, and let the history of a scalar
    name its own four statistics where it asks for any attribute of anything.
    """
    import_packages()
    from mmengine.logging.history_buffer import HistoryBuffer

    def statistic(owner: Any, name: str) -> Any:
        if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
            raise ModelError(
                "A checkpoint names statistics of its scalars only.", f"{name} of {owner}", "Don't trust this file."
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


def step(pipeline: Any, kind: str) -> Any:
    """The step `kind` (without its scope) of a configuration's pipeline."""
    return next(found for found in pipeline if found.type.split(".")[-1] == kind)
