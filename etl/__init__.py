"""Extract, transform, load: from raw 3D human pose datasets to XYCD training files.

::

    etl.run(config)                                              the whole pipeline
    etl.open_features(workspace).sel(subject="S1").load()        features as labelled arrays, during a run and after it
    etl.open_index(workspace)                                    every frame, as a Dask DataFrame
    etl.open_xycd("…/training/h36m_xycd_train.npz")              a training file, mapped into memory
"""

from __future__ import annotations

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etl.pipeline import run
    from etl.results.features import open_features
    from etl.results.index import open_index
    from etl.results.training import open_xycd

__all__ = ["__version__", "open_features", "open_index", "open_xycd", "run"]
__version__ = _version("xycd")

_HOMES = {
    "open_features": "results.features",
    "open_index": "results.index",
    "open_xycd": "results.training",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    # Imported when they are used: `xycd --help` imports this package too.
    if name in _HOMES:
        return getattr(_import_module(f"etl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'etl' has no attribute {name!r}")
