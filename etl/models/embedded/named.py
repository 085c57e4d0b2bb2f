"""The set `embedded`, as far as it is known without LiteRT."""

from __future__ import annotations

from pathlib import Path

from etl.models.base import ModelSet
from etl.models.embedded.settings import parse
from etl.models.files import weights
from etl.models.named_set import NamedSet, Options


class EmbeddedSet(NamedSet):
    """See `etl.models.embedded.model_set`."""

    name = "embedded"
    description = "BlazePose GHUM on LiteRT: 2D joints and coarse metric depth, on any CPU, without a model hub"
    licence = "Apache-2.0"
    files = ("pose_detection.tflite", "pose_landmark_full.tflite")

    def build(self, options: Options, cache: Path | None) -> ModelSet:
        """Build the set."""
        from etl.models.embedded import model_set

        return model_set.build(options, cache)

    def check(self, options: Options, cache: Path | None) -> None:
        """Check the options and the files."""
        parse(options)
        for file in self.files:
            weights.path_of(file, cache)

    def fetch(self, options: Options, cache: Path | None, source: Path | None) -> list[Path]:
        """Fetch the files, which are the same for all options."""
        return [weights.fetch(file, cache=cache, source=source) for file in self.files]

    def state_of_files(self, cache: Path | None) -> str:
        """Count the missing files."""
        missing = sum(not weights.is_present(file, cache) for file in self.files)
        return f"{missing} of {len(self.files)} missing" if missing else "present"
