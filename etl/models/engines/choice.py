"""Which runtime a network runs on: what is installed, and a race that is fair on a busy machine; no framework here."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final

from etl.errors import ConfigError

TORCH: Final = "torch"
# What each needs besides torch; onnx is what torch exports with.
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    TORCH: (),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
}
# Torch is what the networks were trained with, so others have to be worth it.
_MARGIN: Final = 0.95
ROUNDS: Final = 5
BUDGET_S: Final = 20.0


def installed() -> tuple[str, ...]:
    """Runtimes that can be used here, torch first."""
    return tuple(name for name in _NEEDS if not _missing(name))


def check_installed(name: str) -> None:
    """Refuse a runtime that isn't installed.

    Raises
    ------
    ConfigError
        Naming what is missing.
    """
    if missing := _missing(name):
        raise ConfigError(
            f"The runtime {name} is installed where it is asked for.",
            f"no {' and no '.join(missing)}",
            f'pip install {" ".join(missing)}, or set the network\'s runtime to "auto" or "torch".',
        )


def _missing(name: str) -> list[str]:
    return [package for package in _NEEDS[name] if importlib.util.find_spec(package) is None]


def race(
    contestants: Mapping[str, Callable[[], object]],
    *,
    clock: Callable[[], float] = time.perf_counter,
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
) -> dict[str, float]:
    """Median seconds of a call of each, in rounds, so that a busy moment of the machine meets all of them.

    Parameters
    ----------
    contestants : mapping of str to callable
        What to call. Each is called once beforehand, which isn't counted.
    clock : callable
        Seconds.
    rounds : int
        At most.
    budget_s : float
        No round begins after so many seconds, but for the first.
    """
    for call in contestants.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in contestants}
    begun = clock()
    for number in range(rounds):
        if number and clock() - begun > budget_s:
            break
        for name, call in list(contestants.items())[:: -1 if number % 2 else 1]:
            started = clock()
            call()
            found[name].append(clock() - started)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def fastest(seconds: Mapping[str, float]) -> str:
    """The runtime with the least seconds; torch, unless another is at least 5 % faster."""
    best = min(seconds, key=lambda name: seconds[name])
    return best if TORCH not in seconds or seconds[best] < _MARGIN * seconds[TORCH] else TORCH
