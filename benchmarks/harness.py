"""What the benchmarks share: interleaved runs, ratios, goals, one line and one JSON a benchmark.

    results = Results("estimate")
    runs = interleaved({"ours": ours, "loop": loop}, rounds=5)
    results.add("estimate against a plain loop", ratio(runs, "loop", "ours"), at_least=1.5, unit="x")
    results.note("what doesn't fit into a line")
    results.finish()

Other people's processes slow a shared machine down for seconds or minutes. So what is compared runs in turn, the
figure is the median of the rounds' ratios, and CPU time, which others hardly touch, stands beside wall time.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.settings import MEMORY

RESULTS = "XYCD_BENCH_RESULTS"  # environment: folder that gets <name>.json
Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Sample:
    """Seconds of one run; `cpu` adds up all threads, and the child processes that ended during the run."""

    wall: float
    cpu: float


def like_a_worker() -> None:
    """Start this program again with the settings of memory that workers have, unless it has them."""
    if any(os.environ.get(name) != value for name, value in MEMORY.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **MEMORY})


def cpu_seconds() -> float:
    """CPU time so far of this process and of its children that have ended and been waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def timed(work: Callable[[], object]) -> Sample:
    """Run `work` once; if it returns a Sample (of processes of its own, say), that counts."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = work()
    if isinstance(result, Sample):
        return result
    return Sample(time.perf_counter() - wall, cpu_seconds() - cpu)


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int = 5, *, warm_up: bool = True
) -> dict[str, list[Sample]]:
    """Run all `works` in turn, `rounds` times; every other round backwards, so that no one always comes first."""
    if warm_up:
        for work in works.values():
            work()
    found: dict[str, list[Sample]] = {name: [] for name in works}
    for number in range(rounds):
        names = list(works)[:: -1 if number % 2 else 1]
        for name in names:
            found[name].append(timed(works[name]))
    return found


def ratio(runs: Mapping[str, Sequence[Sample]], over: str, under: str, clock: Clock = "wall") -> float:
    """Median of the rounds' ratios of seconds, `over` / `under`: how many times as fast `under` is."""
    pairs = zip(runs[over], runs[under], strict=True)
    return statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs)


def median(runs: Mapping[str, Sequence[Sample]], name: str, clock: Clock = "wall") -> float:
    """Median seconds of `name`."""
    return statistics.median(getattr(sample, clock) for sample in runs[name])


@dataclass(frozen=True)
class Figure:
    """One figure, and the goal that it has, if it has one."""

    name: str
    measured: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """`met`, `short`, or `-` without a goal."""
        if self.at_least is None and self.at_most is None:
            return "-"
        low = self.at_least is None or self.measured >= self.at_least
        high = self.at_most is None or self.measured <= self.at_most
        return "met" if low and high else "short"

    @property
    def value(self) -> str:
        """With its unit."""
        return _number(self.measured) + _space(self.unit)

    @property
    def goal(self) -> str:
        """In words."""
        words = [f">= {_number(self.at_least)}"] if self.at_least is not None else []
        words += [f"<= {_number(self.at_most)}"] if self.at_most is not None else []
        return " and ".join(f"{word}{_space(self.unit)}" for word in words) or "-"

    def line(self, width: int = 60) -> str:
        """Name, measured, goal, verdict."""
        return f"{self.name:<{width}} {self.value:>14}  {self.goal:>14}  {self.verdict}"


class Results:
    """The figures of one benchmark.

    Parameters
    ----------
    name : str
        Of the benchmark; also of its JSON.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.load = [os.getloadavg()[0]]

    def add(
        self, name: str, measured: float, unit: str = "", *, at_least: float | None = None, at_most: float | None = None
    ) -> Figure:
        """Add a figure and print its line."""
        figure = Figure(name, float(measured), unit, at_least, at_most)
        self.figures.append(figure)
        print(figure.line(), flush=True)
        return figure

    def note(self, text: str) -> None:
        """Add a sentence about the run, such as what was left out, and print it."""
        self.notes.append(text)
        print(f"note: {text}", flush=True)

    def finish(self) -> None:
        """Write the JSON, where the environment variable XYCD_BENCH_RESULTS names a folder."""
        self.load.append(os.getloadavg()[0])
        folder = os.environ.get(RESULTS)
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{self.name}.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: figures with goals and verdicts, notes, the machine and its load before and after."""
        figures = [{**asdict(figure), "goal": figure.goal, "verdict": figure.verdict} for figure in self.figures]
        return {
            "benchmark": self.name,
            "date": time.strftime("%Y-%m-%d"),
            "figures": figures,
            "notes": self.notes,
            "machine": machine(),
            "load": [round(value, 2) for value in self.load],
        }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), model)
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _space(unit: str) -> str:
    return unit if unit in ("", "x", "%") else f" {unit}"
