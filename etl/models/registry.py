"""Model sets by name, built only when asked for: importing this imports no network and no framework.

A set is one of `SETS`, or ``module:factory`` for one's own: the factory is called with the options as keyword
arguments, and returns a `ModelSet`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etl.config import Config
from etl.errors import ConfigError, ModelError
from etl.models.base import Description, MapSource, ModelSet
from etl.models.files import weights

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SetInfo:
    """What is known of a set without building it.

    Parameters
    ----------
    name : str
        As the configuration calls it.
    description, licence : str
        For people; the licence is that of the weights.
    module : str
        Has ``build(options, cache)``, which takes a mapping and a folder or None, and returns a `ModelSet`.
    files : tuple of str
        Names in `etl.models.files.weights.FILES`.
    needs : str
        The extra of the distribution whose packages it needs; "" for none.
    options_module : str
        Has ``parse(options)``, which raises what `build` would about the options, and is light. "" where another
        module's ``check`` does.
    files_module : str
        For sets whose files depend on their options: has ``check(options, cache)`` and ``fetch(options, *, cache,
        source, progress)``, and is light. "" where `files` says it all.
    identity_module : str
        For sets that take long to build: has ``describe(options, cache)``, which returns a `Description`, and is
        light. "" for others.
    runtimes_module : str
        For sets whose networks run on one of several runtimes: has ``check(options)`` and ``choose(config, *,
        compute)`` as `etl.models.auglift.runtimes`. "" for others.
    maps : bool
        Whether what it builds is a `MapSource`.
    """

    name: str
    description: str
    licence: str
    module: str
    files: tuple[str, ...] = ()
    needs: str = ""
    options_module: str = ""
    files_module: str = ""
    identity_module: str = ""
    runtimes_module: str = ""
    maps: bool = False


SETS: Final[dict[str, SetInfo]] = {
    info.name: info
    for info in (
        SetInfo(
            "embedded",
            "BlazePose GHUM on LiteRT: 2D joints and coarse metric depth, on any CPU, without a model hub",
            "Apache-2.0",
            "etl.models.embedded.model_set",
            ("pose_detection.tflite", "pose_landmark_full.tflite"),
            options_module="etl.models.embedded.settings",
        ),
        SetInfo(
            "auglift",
            "RTMDet, RTMPose-l and Depth Anything V2 metric: what the published results rest on",
            "Apache-2.0; depth CC-BY-NC-4.0 (ViT-B, ViT-L)",
            "etl.models.auglift.model_set",
            needs="openmmlab",
            files_module="etl.models.auglift.files",
            identity_module="etl.models.auglift.identity",
            runtimes_module="etl.models.auglift.runtimes",
            maps=True,
        ),
    )
}


def available() -> list[SetInfo]:
    """All sets that have a name."""
    return list(SETS.values())


def build(name: str, *, cache: Path | None = None, **options: Any) -> ModelSet:
    """Build a model set.

    Parameters
    ----------
    name : str
        One of `SETS`, or ``module:factory``.
    cache : Path, optional
        Folder of the model files, instead of `weights.cache_folder`.
    **options
        The set's own.

    Raises
    ------
    ConfigError
        When the name or an option is unknown.
    ModelError
        When a file or a package is absent, or a file is damaged.
    """
    if ":" in name:
        return _factory(name, options)(**options)
    info = _info(name)
    try:
        module = importlib.import_module(info.module)
    except ModuleNotFoundError as error:
        if not info.needs:
            raise
        raise ModelError(
            f"The model set {name} needs the packages of the extra {info.needs!r}.",
            str(error),
            f"pip install 'xycd[{info.needs}]', or follow its recipe in docs.",
        ) from error
    built: ModelSet = module.build(options, cache)
    return built


def check(name: str, *, cache: Path | None = None, **options: Any) -> None:
    """Raise what `build` would, as far as that can be known without loading networks.

    Raises
    ------
    ConfigError
        When the name or an option is unknown, an option is out of range, a factory can't be imported, or a runtime
        that is asked for isn't installed.
    ModelError
        When a registered file is absent or damaged.
    """
    if ":" in name:
        _factory(name, options)
        return
    info = _info(name)
    if info.options_module:
        importlib.import_module(info.options_module).parse(options)
    if info.files_module:
        importlib.import_module(info.files_module).check(options, cache)
    if info.runtimes_module:
        importlib.import_module(info.runtimes_module).check(options)
    for file in info.files:
        weights.path_of(file, cache)


def choose_runtimes(config: Config, *, compute: bool) -> tuple[Config, list[str]]:
    """The configuration with a runtime named for each network, and notes for the user.

    Parameters
    ----------
    config : Config
        Of the run; it stays as it is if its set has one runtime only.
    compute : bool
        Whether networks are to run.

    Raises
    ------
    ConfigError
        When workers would lack a package, a device or a precision, as far as that can be known here.
    """
    info = SETS.get(config.models.set)
    if info is None or not info.runtimes_module:
        return config, []
    chosen: tuple[Config, list[str]] = importlib.import_module(info.runtimes_module).choose(config, compute=compute)
    return chosen


def describe(name: str, *, cache: Path | None = None, **options: Any) -> Description | None:
    """What is known of a set without building it; None where only building tells.

    A factory of one's own may have an attribute ``describe_set``, which is called as the factory is.

    Raises
    ------
    ConfigError
        When the name or an option is unknown.
    ModelError
        When a file is absent.
    """
    if ":" in name:
        own: Callable[..., Description] | None = getattr(_factory(name, options), "describe_set", None)
        return own(**options) if own else None
    module = _info(name).identity_module
    found: Description | None = importlib.import_module(module).describe(options, cache) if module else None
    return found


def has_maps(name: str, *, cache: Path | None = None, **options: Any) -> bool:
    """Whether a set's feature maps can be kept; one's own sets are built to find out.

    Raises
    ------
    ConfigError
        When the name is unknown.
    """
    return isinstance(build(name, cache=cache, **options), MapSource) if ":" in name else _info(name).maps


def fetch(
    name: str,
    *,
    cache: Path | None = None,
    source: Path | None = None,
    progress: weights.Progress | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Put a set's files into the cache; see `weights.fetch`. The set's `options` may name other networks.

    Raises
    ------
    ConfigError
        When the name is unknown.
    ModelError
        When a file can't be had, or the set's files aren't registered.
    """
    info = _info(name)
    if info.files_module:
        module = importlib.import_module(info.files_module)
        fetched: list[Path] = module.fetch(options or {}, cache=cache, source=source, progress=progress)
        return fetched
    return [weights.fetch(file, cache=cache, source=source, progress=progress) for file in info.files]


def table(cache: Path | None = None) -> pd.DataFrame:
    """One row a set: name, whether its files are in the cache, licence, what it needs, description."""
    import pandas as pd

    def state(info: SetInfo) -> str:
        if info.files_module:
            try:
                importlib.import_module(info.files_module).check({}, cache)
            except ModelError:
                return "missing"
            return "present"
        missing = [file for file in info.files if not weights.is_present(file, cache)]
        return f"{len(missing)} of {len(info.files)} missing" if missing else "present"

    return pd.DataFrame(
        [
            {
                "name": info.name,
                "files": state(info),
                "licence": info.licence,
                "needs": f"xycd[{info.needs}]" if info.needs else "",
                "description": info.description,
            }
            for info in available()
        ]
    )


def _info(name: str) -> SetInfo:
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1, cutoff=0)
        raise ConfigError(
            "A model set is one of those that `xycd models list` names, or module:factory.",
            repr(name),
            f"Did you mean {near[0]!r}?",
        )
    return SETS[name]


def _factory(name: str, options: Mapping[str, Any]) -> Callable[..., ModelSet]:
    module, _, attribute = name.partition(":")
    rule = "A model set of one's own is module:factory, which Python can import."
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            rule, f"{name!r}: {error}", "Check the spelling, and that the module is installed."
        ) from error
    if not callable(found):
        raise ConfigError(rule, f"{name!r} can't be called", "Name a function or a class.")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ConfigError(f"The factory {name} takes the options.", str(error), "See [models.options].") from error
    factory: Callable[..., ModelSet] = found
    return factory
