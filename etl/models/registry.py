"""Model sets by name, built only when asked for: importing this imports no framework.

A set is one of `SETS`, or ``module:factory`` for a user's own: the factory is called with the options as keyword
arguments, and returns a `ModelSet`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etl.config import Config
from etl.errors import ConfigError, ModelError
from etl.models.auglift.named import AugliftSet
from etl.models.base import Description, MapSource, ModelSet
from etl.models.embedded.named import EmbeddedSet
from etl.models.named_set import NamedSet

if TYPE_CHECKING:
    import pandas as pd

SETS: Final[Mapping[str, NamedSet]] = {named.name: named for named in (EmbeddedSet(), AugliftSet())}


def build(name: str, *, cache: Path | None = None, **options: Any) -> ModelSet:
    """Build a model set.

    Parameters
    ----------
    name : str
        One of `SETS`, or ``module:factory``.
    cache : Path, optional
        Folder of the model files, instead of `etl.models.files.weights.cache_folder`.
    **options
        Options of the set.

    Raises
    ------
    ConfigError
        When the name or an option is unknown.
    ModelError
        When a file or a package is missing, or a file is damaged.
    """
    if ":" in name:
        return _factory(name, options)(**options)
    named = find(name)
    try:
        return named.build(options, cache)
    except ModuleNotFoundError as error:
        if not named.extra:
            raise
        raise ModelError(
            f"The model set {name} needs the packages of the extra {named.extra!r}.",
            str(error),
            f"Run pip install 'xycd[{named.extra}]', or follow its recipe in docs.",
        ) from error


def check(name: str, *, cache: Path | None = None, **options: Any) -> None:
    """Raise what `build` would raise, as far as it can be known without loading networks.

    Raises
    ------
    ConfigError
        When the name or an option is unknown, an option is out of range, a factory can't be imported, or a runtime
        that an option names isn't installed.
    ModelError
        When a file is missing or damaged.
    """
    if ":" in name:
        _factory(name, options)
    else:
        find(name).check(options, cache)


def choose_runtimes(config: Config, *, compute: bool) -> tuple[Config, list[str]]:
    """Return the configuration with a runtime named for each network, and notes for the user.

    Parameters
    ----------
    config : Config
        Of the run; returned as it is if its set has only one runtime.
    compute : bool
        Whether networks are to run.

    Raises
    ------
    ConfigError
        When workers would lack a package, a device or a precision, as far as it can be known here.
    """
    named = SETS.get(config.models.set)
    return named.choose_runtimes(config, compute=compute) if named else (config, [])


def describe(name: str, *, cache: Path | None = None, **options: Any) -> Description | None:
    """Describe a set without building it; None where only building tells.

    A user's own factory may have an attribute ``describe_set``, which is called as the factory is.

    Raises
    ------
    ConfigError
        When the name or an option is unknown.
    ModelError
        When a file is missing.
    """
    if ":" not in name:
        return find(name).describe(options, cache)
    own: Callable[..., Description] | None = getattr(_factory(name, options), "describe_set", None)
    return own(**options) if own else None


def has_maps(name: str, *, cache: Path | None = None, **options: Any) -> bool:
    """Whether feature maps of a set can be kept; a user's own sets are built to find out.

    Raises
    ------
    ConfigError
        When the name is unknown.
    """
    return isinstance(build(name, cache=cache, **options), MapSource) if ":" in name else find(name).maps


def fetch(
    name: str,
    *,
    cache: Path | None = None,
    source: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Put the files of a set, or of the networks that its options name, into the cache; see `weights.fetch`.

    Raises
    ------
    ConfigError
        When the name is unknown.
    ModelError
        When a file can't be fetched.
    """
    return find(name).fetch(options or {}, cache, source)


def table(cache: Path | None = None) -> pd.DataFrame:
    """Return one row per set: name, whether its files are in the cache, licence, extra, description."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "name": named.name,
                "files": named.state_of_files(cache),
                "licence": named.licence,
                "needs": f"xycd[{named.extra}]" if named.extra else "",
                "description": named.description,
            }
            for named in SETS.values()
        ]
    )


def find(name: str) -> NamedSet:
    """Return the set called `name`.

    Raises
    ------
    ConfigError
        When there is none, with the nearest name.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1, cutoff=0)
        raise ConfigError(
            "A model set must be one that `xycd models list` shows, or module:factory.",
            f"unknown model set {name!r}",
            f"Did you mean {near[0]!r}?",
        )
    return SETS[name]


def _factory(name: str, options: Mapping[str, Any]) -> Callable[..., ModelSet]:
    module, _, attribute = name.partition(":")
    rule = "A model set of your own must be module:factory, which Python can import."
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            rule, f"{name!r} can't be imported ({error})", "Check the spelling, and that the module is installed."
        ) from error
    if not callable(found):
        raise ConfigError(rule, f"{name!r} can't be called", "Name a function or a class.")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ConfigError(
            f"The factory {name} must take the options.", f"it doesn't ({error})", "See [models.options]."
        ) from error
    factory: Callable[..., ModelSet] = found
    return factory
