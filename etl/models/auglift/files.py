"""The files of the set `auglift`: where they are, whether they are there, and fetching them; without any framework."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from etl.errors import ConfigError, ModelError
from etl.models.auglift import catalog
from etl.models.auglift.settings import AugliftSettings, parse
from etl.models.files import weights

HUB_VARIABLE: Final = "HF_ENDPOINT"
_HEADER: Final = 100_000_000  # bytes, the format's own limit


def networks(settings: AugliftSettings) -> dict[str, catalog.OpenMMLabNetwork | catalog.DepthNetwork]:
    """Detector, pose estimator and depth estimator that the options name.

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
    """File of each network: the one that the options give, or the cache's; none for random weights.

    Raises
    ------
    ModelError
        When one is absent, or one of the cache isn't what its publisher says, or never was fetched.
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
            weights.path_of(_registered(network, path), cache)
    return found


def _registered(network: catalog.OpenMMLabNetwork | catalog.DepthNetwork, path: Path) -> weights.ModelFile:
    """A network's file in the cache: with the hash in its name, or that which the hub listed when it was fetched."""
    if isinstance(network, catalog.OpenMMLabNetwork):
        return _openmmlab_file(network)
    digest = weights.verified_as(path)
    if digest is None:
        raise ModelError(
            f"The weights of {network.name} in the cache were fetched, which notes their SHA-256.",
            f"no such note of {path}",
            f"Run `xycd models fetch auglift`, or without a network `xycd models fetch auglift --from {path.parent}`.",
        )
    return weights.ModelFile(network.file, 0, digest, network.licence, weights.Url(network.url))


def check(options: Mapping[str, Any], cache: Path | None = None) -> None:
    """Raise what `etl.models.auglift.model_set.build` would, as far as it can be known without loading anything."""
    settings = parse(options)
    networks(settings)
    paths(settings, cache)


def fetch(
    options: Mapping[str, Any] | None = None,
    *,
    cache: Path | None = None,
    source: Path | None = None,
    progress: weights.Progress | None = None,
) -> list[Path]:
    """Put the files of the networks that the options name into the cache; see `etl.models.files.weights.fetch`.

    Networks whose checkpoint the options name themselves, and random ones, need no file.

    Raises
    ------
    ConfigError
        When an option is unknown.
    ModelError
        When a file can't be had, or isn't what its publisher says.
    """
    settings = parse(options)
    wanted = [
        network
        for part, network in networks(settings).items()
        if settings.weights != "random" and getattr(settings, f"{part}_file") is None
    ]
    if source is None and os.environ.get(weights.SOURCE_VARIABLE):
        source = Path(os.environ[weights.SOURCE_VARIABLE])
    found = []
    for network in wanted:
        present = (cache or weights.cache_folder()) / network.file
        if isinstance(network, catalog.DepthNetwork) and source is None and weights.verified_as(present):
            file = _registered(network, present)
            if weights.is_present(file, cache):
                found.append(present)  # the hub, which knows its hash, isn't asked again
                continue
        file = _openmmlab_file(network) if isinstance(network, catalog.OpenMMLabNetwork) else _hub_file(network, source)
        found.append(weights.fetch(file, cache=cache, source=source, progress=progress))
    return found


def _openmmlab_file(network: catalog.OpenMMLabNetwork) -> weights.ModelFile:
    return weights.ModelFile(
        network.file, 0, network.sha256_prefix, network.licence, weights.Url(network.url), network.also
    )


def _hub_file(network: catalog.DepthNetwork, source: Path | None) -> weights.ModelFile:
    """The file as the hub lists it, with size and SHA-256; from a folder, as it lies there."""
    if not network.repository:
        raise ConfigError("Weights come from a publisher.", f"none has any for {network.name}", "Choose another size.")
    if source is not None and (source / network.file).is_file():
        _check_safetensors(source / network.file)
        with (source / network.file).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = (source / network.file).stat().st_size
        return weights.ModelFile(network.file, size, digest, network.licence, weights.Url(network.url))
    if source is not None:
        raise ModelError(
            f"The folder of model files {source} holds {network.file}.",
            "no such file",
            f"Copy {network.url} there under that name.",
        )
    hub = os.environ.get(HUB_VARIABLE, "https://huggingface.co").rstrip("/")
    address = f"{hub}/api/models/{network.repository}/tree/{network.revision}"
    fix = f"Check the network; without one, copy {network.url} to a folder as {network.file}, and use --from."
    if not address.startswith(("https://", "http://")):
        raise ModelError("The hub's address is http or https.", address, f"Fix {HUB_VARIABLE}.")
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            listed = {entry["path"]: entry for entry in json.load(answer)}
        entry = listed["model.safetensors"]
        size, digest = int(entry["size"]), str(entry["lfs"]["oid"]).removeprefix("sha256:")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ModelError(f"The hub lists {network.repository}.", f"{address}: {error}", fix) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            "The hub lists model.safetensors with its size and SHA-256.", f"another answer from {address}", fix
        ) from error
    url = f"{hub}/{network.repository}/resolve/{network.revision}/model.safetensors"
    return weights.ModelFile(network.file, size, digest, network.licence, weights.Url(url))


def _check_safetensors(path: Path) -> None:
    """Refuse a file that was cut off or is something else: nobody here knows what its SHA-256 should be.

    Raises
    ------
    ModelError
        When its header doesn't describe as many bytes as there are.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= min(size, _HEADER) else {}
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        found = f"{size} bytes instead of {8 + length + max(ends)}" if ends else "no header"
        whole = bool(ends) and size == 8 + length + max(ends)
    except (ValueError, LookupError, TypeError, AttributeError):
        whole, found = False, "no header"
    if not whole:
        raise ModelError("Weights are a whole safetensors file.", f"{path}: {found}", "Copy it again.")
