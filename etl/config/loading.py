"""Reads a configuration from TOML and the command line, and explains what is wrong with it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from etl.config.models import Config
from etl.errors import ConfigError


def load(path: Path | None = None, *overrides: Mapping[str, Any], only: str | None = None) -> Config:
    """Read a configuration.

    Parameters
    ----------
    path : Path, optional
        A TOML file. Relative paths in it are relative to its folder.
    *overrides : mapping
        Nested values that replace the file's. Later mappings replace earlier ones; None counts as absent.
    only : str, optional
        Name of the dataset to keep; all others are left out.

    Raises
    ------
    ConfigError
        When the file can't be read, the dataset `only` isn't configured, or keys are unknown or out of range. The
        message names every such key, and the nearest valid key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _read_toml(path)
        _anchor(values, path.parent)
    for over in overrides:
        values = _merged(values, over)
    if only is not None:
        if only not in values.get("datasets", {}):
            raise ConfigError(
                "A dataset must be configured before it is used.",
                f"no section [datasets.{only}] in {path or 'the configuration'}",
                f"Give its folder: --root, or datasets.{only}.root.",
            )
        values["datasets"] = {only: values["datasets"][only]}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        where = f"{path}" if path else "the command line"
        found = "; ".join(_explain(e) for e in error.errors())
        raise ConfigError(
            "All keys must be known and have valid values.", f"in {where}: {found}", "See `xycd run --help`."
        ) from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the nested values of ``section.key=value`` lines. Values are TOML; bare words are strings.

    Raises
    ------
    ConfigError
        When a line isn't an assignment.
    """
    values: dict[str, Any] = {}
    for line in assignments:
        name, equals, text = line.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                "--set needs section.key=value.", f"no assignment in {line!r}", "For example: --set estimate.batch=8."
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        for part in reversed(name.strip().split(".")):
            value = {part: value}
        values = _merged(values, value)
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "The configuration file must be readable.", f"{path}: {error.strerror}", "Check --config."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("A configuration file must be TOML.", f"{path}: {error}", "Fix that line.") from error


def _anchor(values: dict[str, Any], folder: Path) -> None:
    """Make relative paths of a file relative to its folder instead of the current folder."""
    spots = [(values, "workspace"), (values.get("models", {}), "cache")]
    spots += [(table, "root") for table in values.get("datasets", {}).values() if isinstance(table, dict)]
    for table, name in spots:
        if isinstance(table, dict) and isinstance(table.get(name), str):
            table[name] = str(folder / Path(table[name]).expanduser())


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        if isinstance(value, Mapping):
            result[name] = _merged(_section(below), value)
        elif isinstance(value, bool) and isinstance(below, Mapping):
            result[name] = _merged(below, _section(value))
        elif value is not None:
            result[name] = value
    return result


def _section(value: Any) -> Mapping[str, Any]:
    """Return the section that `value` means: itself, or `enabled` for a switch such as `embeddings = true`."""
    if isinstance(value, bool):
        return {"enabled": value}
    return value if isinstance(value, Mapping) else {}


def _explain(error: Any) -> str:
    """Return a validation error as text, with the nearest valid name for an unknown key."""
    location = [str(part) for part in error["loc"]]
    dotted = ".".join(location)
    if error["type"] != "extra_forbidden":
        return f"{dotted}: {error['msg']} (got {error['input']!r})"
    known = _known_keys(location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.4)
    hint = f", did you mean {near[0]!r}?" if near else f"; valid here: {', '.join(sorted(known))}"
    return f"unknown key {dotted!r}{hint}"


def _known_keys(location: list[str]) -> list[str]:
    model: Any = Config
    for part in location:
        for name, info in model.model_fields.items():
            if part in (name, info.alias):
                options = [info.annotation, *getattr(info.annotation, "__args__", ())]
                model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
                break
    return [info.alias or name for name, info in model.model_fields.items()]
