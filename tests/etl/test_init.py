from __future__ import annotations

import subprocess
import sys

import pytest

import etl


def test_names_are_what_they_say() -> None:
    from etl.pipeline import run
    from etl.results.features import open_features
    from etl.results.index import open_index
    from etl.results.training import open_xycd

    assert (etl.run, etl.open_features, etl.open_index, etl.open_xycd) == (run, open_features, open_index, open_xycd)
    assert set(etl.__all__) >= {"run", "open_features", "open_index", "open_xycd"}


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_sesame'"):
        _ = etl.open_sesame


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, etl; print([m for m in ('numpy', 'xarray', 'dask', 'pandas', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
