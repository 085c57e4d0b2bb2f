"""Which runtimes the set `auglift` leaves open, and how fast each is; no framework until something is measured."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cluster.settings import WAITING
from etl.errors import ConfigError
from etl.models.auglift import files as auglift_files
from etl.models.auglift.settings import Part, parse
from etl.models.engines.choice import TORCH, check_installed
from etl.models.files import weights

PARTS: Final[tuple[Part, ...]] = ("detector", "pose", "depth")
PACKAGES: Final = ("torch", "transformers", "mmengine", "mmcv", "mmdet", "mmpose")


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
            known = weights.known_sha256(files[part])[:16] if part in files else drawn
            found[part] = f"{getattr(settings, part)} {known}"
    return found


def decided(options: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """The options with the runtimes of `choices`, by part, in place of ``auto``; torch where there is no choice."""
    chosen = {part: choices.get(part, TORCH) for part in PARTS if parse(options).engines[part] == "auto"}
    return {**options, **{f"{part}_runtime": engine for part, engine in chosen.items()}}


def on_gpu(options: Mapping[str, Any]) -> bool:
    """Whether torch would use a GPU of this machine; torch is only asked where there may be one."""
    if parse(options).device == "cpu" or not _has_driver():
        return False
    import torch

    return bool(torch.cuda.is_available())


def _has_driver() -> bool:
    """Whether a GPU's driver may be installed: NVIDIA's, which torch looks for by this name, or AMD's."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def check_packages() -> None:
    """Refuse to start where the set's packages aren't installed.

    Raises
    ------
    ConfigError
        Naming what is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "The set auglift needs the packages of the extra `openmmlab`.",
            f"no {', '.join(missing)}",
            "Run `make openmmlab` (or the pip lines in README); the embedded set works without.",
        )


def check_here(options: Mapping[str, Any], gpu: Callable[[], bool]) -> None:
    """Refuse a device that isn't there, or a precision that this machine would only emulate.

    Parameters
    ----------
    options : mapping
        Of the set.
    gpu : callable
        Whether workers of this machine have a GPU; torch is only imported where the options ask for more than it
        has everywhere.

    Raises
    ------
    ConfigError
        Naming the option.
    """
    settings = parse(options)
    if settings.device == "cuda" or settings.precision != "fp32":
        from etl.models.engines.torch_runtime import Runtime

        # cuda by name is an error without; auto is the processor then.
        device = settings.device if settings.device == "cuda" or gpu() else "cpu"
        Runtime.choose(device, settings.precision)


def measure(
    options: Mapping[str, Any], part: Part, cache: Path | None = None, *, threads: int, frames: int
) -> dict[str, float]:
    """Seconds a picture by runtime; see `etl.models.auglift.build.measure`."""
    for name, value in WAITING.items():  # as workers have it; read when torch is loaded
        os.environ.setdefault(name, value)
    from etl.models.auglift import build as auglift_build

    settings = parse(options)
    file = auglift_files.paths(settings, cache).get(part)
    return auglift_build.measure(settings, part, file, cache, threads=threads, frames=frames)
