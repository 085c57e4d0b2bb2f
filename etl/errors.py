"""Errors that a user sees, each with what it costs."""

from __future__ import annotations

from schemas.errors import XycdError

__all__ = [
    "ConfigError",
    "DatasetError",
    "DeviceError",
    "MediaError",
    "MergeError",
    "ModelError",
    "QueryError",
    "SpaceError",
    "WorkspaceError",
    "XycdError",
]


class ConfigError(XycdError):
    """The configuration can't be run. Raised before anything starts."""


class DatasetError(XycdError):
    """A raw file isn't what its release says. Costs the sequence that it belongs to."""


class MediaError(XycdError):
    """An image or a video can't be decoded. Costs the frame, or the frames, that it holds."""


class ModelError(XycdError):
    """A model's files are absent, damaged or don't fit."""


class DeviceError(ModelError):
    """A GPU answers no more in this process. Costs the worker, which is replaced; its partition runs again."""


class WorkspaceError(XycdError):
    """The workspace can't be used: read-only, full, in use by another run, or damaged."""


class SpaceError(WorkspaceError):
    """No disk space, quota or inodes are left. It stops the run; the same command goes on once some are free."""


class MergeError(XycdError):
    """Annotations and features don't join strictly."""


class QueryError(XycdError):
    """A question about results can't be answered as it was put."""
