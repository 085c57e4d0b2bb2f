"""Mutation testing, room by room: `make mutate ROOM=etl/stages/blocks` (CONTRIBUTING.md says how to read it).

mutmut makes the mutants; this module runs them. mutmut's own runner would run the tests of all rooms first, and start
from the imports for each call. Here a room has only its own tests; a mutant only those that reach its function; and
each mutant runs in a fork of a process that has imported the tests already.

`wrap_in_trampoline` and `MutantDict` stand in the mutated files for mutmut's own, because those record which functions
a test reaches only in the test's own process. A function is reached, too, if a process does that the test has started.
"""

from __future__ import annotations

import argparse
import collections
import difflib
import functools
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOMS = ("etl/stages/blocks", "etl/alignment", "etl/store", "etl/execution", "cluster")
LEAST = 0.9  # share of mutants to be killed in each room
MEMORY = 32 << 30  # bytes of address space a mutant may use: some allocate without end
MARKERS = "not slow and not slurm and not openmmlab and not browser"
ACTIVE, REACHED = "XYCD_MUTANT", "XYCD_REACHED"  # environment: the mutant that runs; the file of functions reached
NOT_STRICT = re.compile(r",?\s*(strict=\w+)?,?\s*\)")  # zip's check of lengths may go: no data would show it
FATES = ("killed", "survived", "not reached")
MutantDict = dict[str, Callable[..., Any]]
LOGS = Path("mutants")  # in the scratch copy
_seen: set[str] = set()


def wrap_in_trampoline(mutants: MutantDict, is_classmethod: bool = False) -> Callable[..., Any]:
    """Decorate a function so that each call goes to its active mutant, or to the original."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if path := os.environ.get(REACHED):
                original = mutants["_mutmut_orig"].__name__
                line = f"{function.__module__}.{function_of(original)}\t{os.environ.get('PYTEST_CURRENT_TEST', '')}\n"
                if line not in _seen:
                    _seen.add(line)
                    with Path(path).open("a", encoding="utf-8") as file:
                        file.write(line)
            module, _, name = os.environ.get(ACTIVE, "").rpartition(".")
            chosen = mutants["_mutmut_orig" if module != function.__module__ or name not in mutants else name]
            if is_classmethod:
                return getattr(args[0], chosen.__name__)(*args[1:], **options)
            return chosen(*args, **options)

        return call

    return decorate


def function_of(mutant: str) -> str:
    """Name of the function that a mutant, or mutmut's copy of the original, belongs to."""
    return mutant.rpartition("__mutmut_")[0]


def mutate(room: Path) -> dict[str, tuple[Path, str]]:
    """Replace the files of a room by ones with all their mutants; return each mutant's file and its change."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    mutants = {}
    for path in sorted(room.rglob("*.py")):
        made = mutate_file_contents(str(path), path.read_text(encoding="utf-8"))
        path.write_text(made.code.replace("mutmut.mutation.trampoline", "tests.mutants"), encoding="utf-8")
        lines = made.code.splitlines()
        text = {name: lines[span.start - 1 : span.end] for name, span in made.line_span_by_function_name.items()}
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for name in made.mutant_names:
            pair = (
                "\n".join(text[one]).replace(one, function_of(one)).splitlines()
                for one in (f"{function_of(name)}__mutmut_orig", name)
            )
            before, after = pair
            if NOT_STRICT.sub(")", "\n".join(before)) == NOT_STRICT.sub(")", "\n".join(after)):
                continue
            changes = [line for line in difflib.ndiff(before, after) if line[0] in "-+"]
            mutants[f"{module}.{name}"] = path, "\n".join(f"    {line[0]} {line[2:].strip()}" for line in changes)
    return mutants


class Durations:
    """Plugin of pytest: writes the seconds that each test took."""

    def __init__(self, path: Path) -> None:
        self.path, self.seconds = path, collections.Counter[str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up set-up, call and teardown."""
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        self.path.write_text(json.dumps(self.seconds), encoding="utf-8")


def fork(tests: list[str], variables: dict[str, str], log: Path, *plugins: object) -> int:
    """Start pytest in a fork of this process, in a group of its own, and return its process id."""
    if process := os.fork():
        return process
    status = 3  # pytest's for an internal error
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        os.environ.update(variables)
        status = run_pytest([*tests, "-x", f"--basetemp={log}.tmp"], plugins)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def run_pytest(arguments: list[str], plugins: tuple[object, ...] = ()) -> int:
    """Run pytest in this process. Hypothesis doesn't simplify what fails: that takes long, and nobody reads it."""
    import hypothesis
    import pytest

    quick = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", derandomize=True, deadline=None, database=None, phases=quick)
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-m", MARKERS]
    return int(pytest.main([*options, *arguments], list(plugins)))


def run_all(
    mutants: list[str], tests_of: Callable[[str], list[str]], seconds: dict[str, float], jobs: int
) -> Iterator[tuple[str, str]]:
    """Run mutants, `jobs` at a time; yield each one's name and fate."""
    waiting, running = mutants[::-1], dict[int, tuple[str, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            if tests := tests_of(mutant):
                limit = time.monotonic() + 20 + 5 * sum(seconds[test] for test in tests)
                running[fork(tests, {ACTIVE: mutant}, LOGS / mutant)] = mutant, limit
            else:
                yield mutant, "not reached"
        time.sleep(0.01)
        for process, (mutant, limit) in tuple(running.items()):
            late = time.monotonic() > limit
            if late:
                os.killpg(process, signal.SIGKILL)
            ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
            if ended:
                del running[process]
                shutil.rmtree(LOGS / f"{mutant}.tmp", ignore_errors=True)
                yield mutant, "killed" if status else "survived"


def inside(room: Path, sample: int, seed: int, jobs: int) -> int:
    """Run the mutants of a room; the working directory is a copy of the project that may be changed."""
    mutants = mutate(room)
    tests, reached, durations = str("tests" / room), LOGS / "reached", LOGS / "durations"
    LOGS.mkdir()
    log = LOGS / "unchanged"
    if os.waitpid(fork([tests], {REACHED: str(reached.resolve())}, log, Durations(durations.resolve())), 0)[1]:
        print(log.read_text(encoding="utf-8"), f"\nThe tests of {room} fail on unchanged code.", sep="")
        return 1
    seconds = json.loads(durations.read_text(encoding="utf-8"))
    calls = collections.defaultdict[str, set[str]](set)  # tests by the functions that they reach
    shared = set[str]()  # functions that imports or fixtures reach, maybe once for many tests
    for line in reached.read_text(encoding="utf-8").splitlines():
        function, _, current = line.partition("\t")
        test, _, phase = current.rpartition(" ")
        calls[function].add(test)
        if phase != "(call)":
            shared.add(function)
    at_import = {function for function, own in calls.items() if "" in own}

    def tests_of(mutant: str) -> list[str]:
        own = calls[function_of(mutant)]
        every = seconds if function_of(mutant) in shared else own
        return sorted(every & seconds.keys(), key=lambda test: (test not in own, seconds[test]))

    chosen = sorted(mutants)
    if 0 < sample < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, sample))
    fates = dict[str, str]()
    for early in (True, False):  # before the tests are imported, and after
        if not early:
            run_pytest([tests, "--collect-only", "-q"])
            gc.freeze()  # else each fork copies the memory that the collector marks
        own = [mutant for mutant in chosen if (function_of(mutant) in at_import) == early]
        for mutant, fate in run_all(own, tests_of, seconds, jobs):
            fates[mutant] = fate
            if fate != "killed":
                print(f"{mutant} {fate}\n{mutants[mutant][1]}", flush=True)
    return report(room, {mutant: (mutants[mutant][0], fate) for mutant, fate in fates.items()})


def report(room: Path, fates: dict[str, tuple[Path, str]]) -> int:
    """Print how many mutants of each file were killed; return 1 if too few of the room were."""
    counts = collections.defaultdict[Path, collections.Counter[str]](collections.Counter)
    for path, fate in fates.values():
        counts[path][fate] += 1
        counts[room][fate] += 1
    for path, count in sorted(counts.items(), key=lambda pair: (pair[0] == room, pair[0])):
        numbers = "  ".join(f"{count[fate]:5,} {fate}" for fate in FATES)
        print(f"{path!s:<40} {numbers}  {count['killed'] / count.total():6.1%}")
    return int(bool(fates) and counts[room]["killed"] < LEAST * counts[room].total())


def main(arguments: list[str] | None = None) -> int:
    """Run the mutants of rooms, each in a scratch copy of the project."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("rooms", nargs="*", default=ROOMS, help="folders of code, with tests of the same name in tests")
    parser.add_argument("--sample", type=int, default=0, help="mutants of each room, drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        return inside(Path(options.rooms[0]), options.sample, options.seed, options.jobs)
    root, status = Path.cwd(), 0
    listed = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], text=True)
    for room in options.rooms:
        with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
            for name in filter(os.path.isfile, listed.split("\0")):
                target = Path(scratch, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(name, target)
            command = [sys.executable, "-m", "tests.mutants", "--inside", room, "--sample", str(options.sample)]
            command += ["--seed", str(options.seed), "--jobs", str(options.jobs)]
            one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # forks share the cores
            samples = os.environ.get("XYCD_SAMPLES", str(root.parent / "shared" / "samples"))
            variables = os.environ | one_thread | {"PYTHONPATH": scratch, "XYCD_SAMPLES": samples}
            status |= subprocess.run(command, cwd=scratch, env=variables).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
