"""Identity of the set `auglift` for stage keys, from its options and files alone.

No framework is imported, so that a login node without a GPU can plan a run without loading networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from etl.models.auglift import catalog
from etl.models.auglift import files as auglift_files
from etl.models.auglift.settings import AugliftSettings, parse
from etl.models.base import Description
from etl.models.files import weights

NAME: Final = "auglift"
LAYERS: Final = {"pose": "backbone, last stage, unflipped", "depth": "neck level 3, before fusion"}

# Options that change no value.
_SPEED_ONLY: Final = {"device", "detector_batch", "pose_batch", "depth_batch"}
_RUNTIMES: Final = {"detector_runtime", "pose_runtime", "depth_runtime"}
_PLACES: Final = {"detector_file", "pose_file", "depth_file"}


def describe(options: AugliftSettings | Mapping[str, Any], cache: Path | None = None) -> Description:
    """Identity of the set, and widths of its embeddings, without building it.

    Raises
    ------
    ConfigError
        When an option is unknown.
    ModelError
        When a file is absent.
    """
    settings = parse(options)
    files = auglift_files.paths(settings, cache)
    hashes = {part: weights.known_sha256(path) for part, path in files.items()}
    pose = catalog.find(catalog.POSE_ESTIMATORS, settings.pose)
    depth = catalog.find(catalog.DEPTH_ESTIMATORS, settings.depth)
    named = weights_of(settings, files, hashes)
    return Description(identity(settings, named, grid=pose.grid, patch=catalog.PATCH), (pose.channels, depth.channels))


def weights_of(settings: AugliftSettings, files: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Any]:
    """Names and SHA-256 of the weights by part, or the seed of random weights."""
    named = {part: {"file": path.name, "sha256": hashes[part]} for part, path in files.items()}
    return named or {"random": settings.seed}


def identity(
    settings: AugliftSettings, named: Mapping[str, Any], *, grid: tuple[int, int], patch: int
) -> dict[str, Any]:
    """Everything that can change a value: networks, hashes of their files, runtimes, precision, other options.

    Parameters
    ----------
    settings : AugliftSettings
        A runtime ``auto`` counts as torch, and inputs ``auto`` as the host.
    named : mapping
        As by `weights_of`.
    grid : (int, int)
        Columns and rows of the pose network's features.
    patch : int
        Side of the depth network's patches, px of its input.
    """
    excluded = _SPEED_ONLY | _PLACES | _RUNTIMES | {"weights", "seed", "inputs"}
    runtimes = {part: "torch" if name == "auto" else name for part, name in settings.runtimes.items()}
    return {
        "name": NAME,
        "runtimes": runtimes,
        "weights": dict(named),
        **settings.model_dump(mode="json", exclude=excluded),
        # The words of earlier versions for the host, so that their features are continued.
        **({"inputs": "device"} if settings.inputs == "device" else {"depth_resize": "host"}),
        "embeddings": {
            "pose": {"layer": LAYERS["pose"], "grid": list(grid)},
            "depth": {"layer": LAYERS["depth"], "grid": f"input / {patch}"},
        },
    }
