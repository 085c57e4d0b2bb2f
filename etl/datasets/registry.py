"""The datasets by name. A reader's module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from etl.datasets.base import DatasetReader
from etl.datasets.checks import require_known

READERS: Final[dict[str, str]] = {
    "h36m": "etl.datasets.human36m.reader:Human36M",
    "3dpw": "etl.datasets.threedpw.reader:ThreeDPW",
    "3dhp": "etl.datasets.mpi_inf_3dhp.reader:MpiInf3DHP",
    "fit3d": "etl.datasets.fit3d:Fit3D",
    "folder": "etl.datasets.folder:Folder",
}


def build(name: str, root: Path, **options: Any) -> DatasetReader:
    """Build the reader of the dataset `name` under `root`.

    Raises
    ------
    DatasetError
        When there is no such dataset; the message names the nearest.
    TypeError
        When the reader has no such option.
    """
    require_known("dataset", [name], READERS)
    module, _, reader = READERS[name].partition(":")
    built = getattr(import_module(module), reader)(root, **options)
    assert isinstance(built, DatasetReader)
    return built
