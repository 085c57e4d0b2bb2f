"""Base class of the model sets that have a name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from etl.config import Config
from etl.errors import ModelError
from etl.models.base import Description, ModelSet

Options = Mapping[str, Any]


class NamedSet(ABC):
    """What is known of a model set without building it. Its module imports no framework at its top.

    Each method takes the set's `options` by name and, as `cache`, the folder of the model files (None: the user's).
    """

    name: ClassVar[str]
    """Name in the configuration."""
    description: ClassVar[str]
    licence: ClassVar[str]
    """Licence of the weights."""
    extra: ClassVar[str] = ""
    """Extra of the distribution whose packages the set needs."""
    maps: ClassVar[bool] = False
    """Whether the set is a `MapSource`."""

    @abstractmethod
    def build(self, options: Options, cache: Path | None) -> ModelSet:
        """Build the set."""

    @abstractmethod
    def check(self, options: Options, cache: Path | None) -> None:
        """Raise what `build` would raise, as far as it can be known without loading networks."""

    @abstractmethod
    def fetch(self, options: Options, cache: Path | None, source: Path | None) -> list[Path]:
        """Put the files of the set into the cache; see `etl.models.files.weights.fetch`."""

    def describe(self, options: Options, cache: Path | None) -> Description | None:
        """Describe the set without building it; None where only building tells."""
        return None

    def choose_runtimes(self, config: Config, *, compute: bool) -> tuple[Config, list[str]]:
        """Name a runtime for each network in the configuration; see `etl.models.registry.choose_runtimes`."""
        return config, []

    def state_of_files(self, cache: Path | None) -> str:
        """Say whether the files of the default options are in the cache."""
        try:
            self.check({}, cache)
        except ModelError:
            return "missing"
        return "present"
