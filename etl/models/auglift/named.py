"""The set `auglift`, as far as it is known without torch."""

from __future__ import annotations

from pathlib import Path

from etl.config import Config
from etl.models.auglift import files, identity
from etl.models.base import Description, ModelSet
from etl.models.named_set import NamedSet, Options


class AugliftSet(NamedSet):
    """See `etl.models.auglift.model_set`."""

    name = "auglift"
    description = "RTMDet, RTMPose-l and Depth Anything V2 metric: what the published results rest on"
    licence = "Apache-2.0; depth CC-BY-NC-4.0 (ViT-B, ViT-L)"
    extra = "openmmlab"
    maps = True

    def build(self, options: Options, cache: Path | None) -> ModelSet:
        """Build the set."""
        from etl.models.auglift import model_set

        return model_set.build(options, cache)

    def check(self, options: Options, cache: Path | None) -> None:
        """Check the options, the files and the runtimes that are named."""
        from etl.models.auglift import runtimes  # pandas

        files.check(options, cache)
        runtimes.check(options)

    def fetch(self, options: Options, cache: Path | None, source: Path | None) -> list[Path]:
        """Fetch the files of the networks that the options name."""
        return files.fetch(options, cache=cache, source=source)

    def describe(self, options: Options, cache: Path | None) -> Description:
        """Describe the set by its options and files."""
        return identity.describe(options, cache)

    def choose_runtimes(self, config: Config, *, compute: bool) -> tuple[Config, list[str]]:
        """See `etl.models.auglift.runtimes.choose`."""
        from etl.models.auglift import runtimes

        return runtimes.choose(config, compute=compute)
