"""Keys of sequences, used in paths, indexes, files and queries."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from schemas.errors import SchemaError


@dataclass(frozen=True, order=True)
class SequenceKey:
    """Identity of one sequence: one subject doing one action before one camera.

    Parameters
    ----------
    dataset : str
        ``h36m``, ``3dpw``, ``3dhp``, ``fit3d`` or ``folder``.
    subject, action : str
        Canonical names, e.g. ``S1``, ``Directions``.
    subaction : int
        Number of the repetition, from 1; 0 where the dataset has none.
    camera : str
        Name of the camera, e.g. ``54138969``.
    """

    dataset: str
    subject: str
    action: str
    subaction: int
    camera: str

    @cached_property
    def path(self) -> PurePosixPath:
        """Relative folder that contains the key: ``subject=S1/action=Directions/subaction=1/camera=54138969``.

        Values are percent-encoded, so that any name is a single safe path component.
        """
        parts = [f"{f.name}={_encode(str(getattr(self, f.name)))}" for f in fields(self) if f.name != "dataset"]
        return PurePosixPath(*parts)

    @classmethod
    def from_path(cls, dataset: str, path: PurePosixPath | str) -> SequenceKey:
        """Read a key from a relative path that starts with `SequenceKey.path`."""
        values: dict[str, str] = {}
        for part in PurePosixPath(path).parts[:4]:
            name, _, value = part.partition("=")
            values[name] = unquote(value)
        try:
            return cls(dataset, values["subject"], values["action"], int(values["subaction"]), values["camera"])
        except (KeyError, ValueError) as error:
            raise SchemaError(
                "A sequence's folder must be subject=…/action=…/subaction=…/camera=….",
                f"folder {str(path)!r}",
                "Don't rename folders of a workspace; remove this one if it isn't xycd's.",
            ) from error

    def __str__(self) -> str:
        sub = f" {self.subaction}" if self.subaction else ""
        return f"{self.dataset} {self.subject} {self.action}{sub} [{self.camera}]"


def _encode(value: str) -> str:
    # Letters and digits of all scripts stay: 28 encoded Chinese ones would be too long for a file's name.
    encoded = "".join(letter if letter.isalnum() else quote(letter, safe=" ,+()[]") for letter in value)
    # A component must not be "." or "..", nor hidden.
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded
