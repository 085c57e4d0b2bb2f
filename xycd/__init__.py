"""The public API, the same names as in etl.

::

    xycd.run(config)                                              the whole pipeline
    xycd.open_features(workspace).sel(subject="S1").load()        features as labelled arrays
    xycd.open_index(workspace)                                    every frame, as a Dask DataFrame
    xycd.open_xycd("…/training/h36m_xycd_train.npz")              a training file, mapped into memory
"""

from __future__ import annotations

from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

_HERE = _Path(__file__).parents[1]


def _require_own_packages() -> None:
    """Refuse to start where another package of the same name hides one of ours."""
    for name in ("etl", "cluster", "schemas"):
        spec = _find_spec(name)
        places = [_Path(place).resolve() for place in (spec.submodule_search_locations or ())] if spec else []
        if places != [(_HERE / name).resolve()]:
            found = ", ".join(map(str, places)) or (spec.origin if spec else None) or "nothing"
            raise ImportError(
                f"The package '{name}' that Python finds is not xycd's: {found}. xycd needs its own, {_HERE / name}. "
                "Remove or rename the other one, or start Python in another folder."
            )


_require_own_packages()

import etl as _etl  # noqa: E402

if _TYPE_CHECKING:
    from etl import open_features, open_index, open_xycd, run

__all__ = ["__version__", "open_features", "open_index", "open_xycd", "run"]
__version__ = _etl.__version__


def __getattr__(name: str) -> _Any:
    # Imported on first use, as in etl.
    if name in __all__:
        return getattr(_etl, name)
    raise AttributeError(f"module 'xycd' has no attribute {name!r}")
