"""Errors that a user meets. Each states the rule, the observed value and the mend."""

from __future__ import annotations


class XycdError(Exception):
    """Base of all errors that the command line shows without a traceback.

    Parameters
    ----------
    rule : str
        What must hold, as a sentence.
    found : str
        What was observed.
    mend : str
        What to do about it, as a sentence.
    """

    def __init__(self, rule: str, found: str, mend: str) -> None:
        super().__init__(f"{rule} Found: {found}. {mend}")
        self.rule, self.found, self.mend = rule, found, mend

    def __reduce__(self) -> tuple[type[XycdError], tuple[str, str, str]]:
        # Errors cross process boundaries; the default reduce would pass the joined message only.
        return type(self), (self.rule, self.found, self.mend)


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
    """Disk, quota or inodes are used up. Somebody may free some while a run waits."""


class MergeError(XycdError):
    """Annotations and features don't join strictly."""


class QueryError(XycdError):
    """A question about results can't be answered as it was put."""
