"""Which runtimes the set `auglift` leaves open, and how fast each is; no framework until something is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from etl.models import auglift_files, weights
from etl.models.auglift_settings import Part, parse
from etl.models.runtime_choice import TORCH, check_installed

PARTS: Final[tuple[Part, ...]] = ("detector", "pose", "depth")


def check(options: Mapping[str, Any]) -> None:
    """Refuse a runtime that is asked for by name and isn't installed.

    Raises
    ------
    ConfigError
        Naming what is missing.
    """
    for engine in parse(options).engines.values():
        if engine != "auto":
            check_installed(engine)


def undecided(options: Mapping[str, Any], cache: Path | None = None) -> dict[str, str]:
    """What a network and its weights are called in a record of choices, for each network whose runtime is ``auto``.

    None where there is no choice: exported networks compute in fp32 on the CPU.
    """
    settings = parse(options)
    if settings.device == "cuda" or settings.precision != "fp32":
        return {}
    files = auglift_files.paths(settings, cache)
    found: dict[str, str] = {}
    for part in PARTS:
        if settings.engines[part] == "auto":
            drawn = f"random {settings.seed}"
            known = weights.sha256(files[part])[:16] if part in files else drawn
            found[part] = f"{getattr(settings, part)} {known}"
    return found


def decided(options: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """The options with the runtimes of `choices`, by part, in place of ``auto``; torch where there is no choice."""
    chosen = {part: choices.get(part, TORCH) for part in PARTS if parse(options).engines[part] == "auto"}
    return {**options, **{f"{part}_runtime": engine for part, engine in chosen.items()}}


def on_gpu(options: Mapping[str, Any]) -> bool:
    """Whether torch would use a GPU of this machine."""
    if parse(options).device == "cpu":
        return False
    import torch

    return bool(torch.cuda.is_available())


def check_precision(options: Mapping[str, Any]) -> None:
    """Refuse a precision that processors, without a GPU, would only emulate.

    Raises
    ------
    ConfigError
        When this machine's processor lacks it.
    """
    if parse(options).precision != "fp32":
        from etl.models import torch_runtime

        torch_runtime.check_precision(parse(options).precision)


def measure(
    options: Mapping[str, Any], part: Part, cache: Path | None = None, *, threads: int, frames: int
) -> dict[str, float]:
    """Seconds a picture by runtime; see `etl.models.auglift_build.measure`."""
    from etl.models import auglift_build

    settings = parse(options)
    file = auglift_files.paths(settings, cache).get(part)
    return auglift_build.measure(settings, part, file, cache, threads=threads, frames=frames)
