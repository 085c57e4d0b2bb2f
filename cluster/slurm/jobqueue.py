"""dask-jobqueue, imported without its side effect.

Its module `runner` makes Ctrl-C leave the process at once, for every program that imports the package (0.9.0). That
would undo a driver's own handling, and an import outside the main thread would fail, since handlers can't be set there.
"""

from __future__ import annotations

import signal
from unittest import mock

import distributed  # noqa: F401  # whatever it does when imported is done before

with mock.patch.object(signal, "signal"):
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

__all__ = ["SLURMCluster", "SLURMJob"]
