"""Errors of the cluster package; the command line shows them as it shows all of xycd's."""

from __future__ import annotations

from schemas.errors import XycdError


class ClusterError(XycdError):
    """Workers can't be had, or a run can't be reached."""


class SubmissionRejected(ClusterError):
    """SLURM refused a job. `found` holds its own words."""


class NoRun(ClusterError):
    """No run answers in this folder."""
