"""Import dask-jobqueue without its side effect.

Importing its module `runner` (0.9.0) sets a signal handler that makes Ctrl-C end the process at once. That would undo
the driver's own handling, and outside the main thread, where Python allows no handlers, the import would fail.
"""

from __future__ import annotations

import signal
from unittest import mock

import distributed  # noqa: F401  # imported first, with its own handlers

with mock.patch.object(signal, "signal"):
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

__all__ = ["SLURMCluster", "SLURMJob"]
