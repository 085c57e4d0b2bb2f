"""Files of the set `auglift`: their paths, checks, and fetching. No framework is imported."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from etl.errors import ConfigError, ModelError
from etl.models.auglift import catalog
from etl.models.auglift.settings import AugliftSettings, parse
from etl.models.files import weights
from etl.models.files.sources import opened_url, source_folder

HUB_VARIABLE: Final = "HF_ENDPOINT"
_HEADER: Final = 100_000_000  # bytes, the format's own limit

Network = catalog.OpenMMLabNetwork | catalog.DepthNetwork


def networks(settings: AugliftSettings) -> dict[str, Network]:
    """Return the detector, the pose estimator and the depth estimator that the options name.

    Raises
    ------
    ConfigError
        When a name is unknown.
    """
    return {
        "detector": catalog.find(catalog.DETECTORS, settings.detector),
        "pose": catalog.find(catalog.POSE_ESTIMATORS, settings.pose),
        "depth": catalog.find(catalog.DEPTH_ESTIMATORS, settings.depth),
    }


def paths(settings: AugliftSettings, cache: Path | None = None) -> dict[str, Path]:
    """Return the file of each network: the one that the options name, or the cache's; none for random weights.

    Raises
    ------
    ModelError
        When a file is missing, or one of the cache is damaged or wasn't fetched.
    """
    if settings.weights == "random":
        return {}
    found = {}
    for part, network in networks(settings).items():
        given: Path | None = getattr(settings, f"{part}_file")
        path = given or (cache or weights.cache_folder()) / network.file
        found[part] = path / "model.safetensors" if path.is_dir() else path
        if not found[part].is_file():
            raise ModelError(
                f"The network {network.name} needs its weights; they are never made up.",
                f"no file {found[part]}",
                f"Run `xycd models fetch auglift` with the same --config where there is a network, put the file of "
                f"{network.url} there, or name yours as {part}_file.",
            )
        if given is None:
            if isinstance(network, catalog.OpenMMLabNetwork):
                file: weights.ModelFile | None = _openmmlab_file(network)
            else:
                file = _noted_file(network, path)
            if file is None:
                raise ModelError(
                    f"The weights of {network.name} in the cache must be fetched, which notes their SHA-256.",
                    f"no such note of {path}",
                    "Run `xycd models fetch auglift`, or without a network "
                    f"`xycd models fetch auglift --from {path.parent}`.",
                )
            weights.path_of(file, cache)
    return found


def check(options: Mapping[str, Any], cache: Path | None = None) -> None:
    """Raise what building the set would raise about its options and files, without loading anything."""
    settings = parse(options)
    networks(settings)
    paths(settings, cache)


def fetch(
    options: Mapping[str, Any] | None = None, *, cache: Path | None = None, source: Path | None = None
) -> list[Path]:
    """Fetch the files of the networks that the options name; see `etl.models.files.weights.fetch`.

    Networks whose file the options name, and random ones, need none.

    Raises
    ------
    ConfigError
        When an option is unknown.
    ModelError
        When a file can't be fetched, or has another SHA-256 than its publisher states.
    """
    settings = parse(options)
    source = source or source_folder()
    found = []
    for part, network in networks(settings).items():
        if settings.weights == "random" or getattr(settings, f"{part}_file") is not None:
            continue
        if isinstance(network, catalog.OpenMMLabNetwork):
            file = _openmmlab_file(network)
        elif source is not None:
            file = _file_in_folder(network, source)
        else:
            noted = _noted_file(network, (cache or weights.cache_folder()) / network.file)
            # The hub isn't asked again about a file that is already there.
            file = noted if noted and weights.is_present(noted, cache) else _file_on_hub(network)
        found.append(weights.fetch(file, cache=cache, source=source))
    return found


def _openmmlab_file(network: catalog.OpenMMLabNetwork) -> weights.ModelFile:
    return weights.ModelFile(network.file, 0, network.sha256_prefix, network.licence, network.url, network.also)


def _noted_file(network: catalog.DepthNetwork, path: Path) -> weights.ModelFile | None:
    """Return a depth network's file in the cache with the SHA-256 that was noted when it was fetched, or None."""
    digest = weights.verified_as(path)
    return weights.ModelFile(network.file, 0, digest, network.licence, network.url) if digest else None


def _file_in_folder(network: catalog.DepthNetwork, folder: Path) -> weights.ModelFile:
    """Return a depth network's file as it is in a folder: only the hub knows the SHA-256 that it must have."""
    _check_published(network)
    path = folder / network.file
    if not path.is_file():
        raise ModelError(
            f"The folder of model files {folder} must contain {network.file}.",
            "no such file",
            f"Copy {network.url} there under that name.",
        )
    _check_safetensors(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return weights.ModelFile(network.file, path.stat().st_size, digest, network.licence, network.url)


def _file_on_hub(network: catalog.DepthNetwork) -> weights.ModelFile:
    """Return a depth network's file with the size and the SHA-256 that the hub, or a mirror, states."""
    _check_published(network)
    hub = os.environ.get(HUB_VARIABLE, "https://huggingface.co").rstrip("/")
    address = f"{hub}/api/models/{network.repository}/tree/{network.revision}"
    try:
        with opened_url(address, network.file) as answer:
            entry = {entry["path"]: entry for entry in json.load(answer)}["model.safetensors"]
        size, digest = int(entry["size"]), str(entry["lfs"]["oid"]).removeprefix("sha256:")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            "The hub must state the size and the SHA-256 of model.safetensors.",
            f"another answer from {address}",
            f"Fix {HUB_VARIABLE}, or copy {network.url} to a folder as {network.file}, and use --from.",
        ) from error
    url = f"{hub}/{network.repository}/resolve/{network.revision}/model.safetensors"
    return weights.ModelFile(network.file, size, digest, network.licence, url)


def _check_published(network: catalog.DepthNetwork) -> None:
    if not network.repository:
        raise ConfigError(
            "The weights of a depth network must be published.",
            f"there are none for {network.name}",
            "Choose another size.",
        )


def _check_safetensors(path: Path) -> None:
    """Refuse a safetensors file whose header doesn't describe as many bytes as there are, or that has none."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= min(size, _HEADER) else {}
        end = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        fault = "" if size == 8 + length + end else f"{size} bytes instead of {8 + length + end}"
    except (ValueError, LookupError, TypeError, AttributeError):
        fault = "no header"
    if fault:
        raise ModelError("Weights must be a complete safetensors file.", f"{fault} in {path}", "Copy it again.")
