"""Errors of the cluster package."""

from __future__ import annotations

from schemas.errors import XycdError


class ClusterError(XycdError):
    """Workers can't be started, or a run can't be reached."""


class SubmissionRejected(ClusterError):
    """SLURM refused a job. `found` holds SLURM's message."""


class NoRun(ClusterError):
    """No run is alive in this folder."""
