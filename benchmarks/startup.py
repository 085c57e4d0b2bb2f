"""What a user waits for before anything happens: the help of every verb, `import etl`, and a plan.

    python -m benchmarks.startup [--rounds 5]

Each is a process of its own, its files in memory. Slow imports are what makes such commands slow, so the number of
modules that one loads stands beside its seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import typer.main

from benchmarks.harness import Results, Sample, interleaved, median
from benchmarks.material import prepare
from etl.cli.app import app

HELP = 0.5  # the goal, seconds
FRAMES = 32


def verbs() -> list[str]:
    """Of the command line, as it knows them."""
    group = typer.main.get_command(app)
    return sorted(getattr(group, "commands", {}))


def process(*arguments: str | Path) -> None:
    """Run a command to its end."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} failed:\n{done.stdout}{done.stderr}")


def modules_of(statement: str) -> int:
    """How many modules a statement loads."""
    code = f"import sys\n{statement}\nprint(len(sys.modules))"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    xycd = Path(sys.executable).with_name("xycd")

    def command(*arguments: str | Path) -> Callable[[], None]:
        return lambda: process(*arguments)

    helps = {f"xycd {verb} --help": command(xycd, verb, "--help") for verb in verbs()}
    with tempfile.TemporaryDirectory() as name:
        root = prepare(FRAMES).root("h264")
        works: dict[str, Callable[[], object]] = {
            "python": command(sys.executable, "-c", "pass"),
            "import etl": command(sys.executable, "-c", "import etl"),
            "xycd --help": command(xycd, "--help"),
            **helps,
            "xycd plan": command(xycd, "plan", "h36m", "--root", root, "--workspace", Path(name) / "workspace"),
        }
        runs: dict[str, list[Sample]] = interleaved(works, options.rounds)
    results = Results("startup")
    for title in ("python", "import etl", "xycd --help"):
        goal = HELP if title == "xycd --help" else None
        results.add(f"wall time of {title}", median(runs, title), "s", at_most=goal)
    slowest = max(helps, key=lambda title: median(runs, title))
    results.add(f"the slowest help: {slowest}", median(runs, slowest), "s", at_most=HELP)
    results.add("its processor time", median(runs, slowest, "cpu"), "s", at_most=HELP)
    results.add("wall time of xycd plan, two sequences", median(runs, "xycd plan"), "s")
    results.add("its processor time", median(runs, "xycd plan", "cpu"), "s")
    results.add("modules that import etl loads", modules_of("import etl"))
    results.add("modules that the command line loads", modules_of("import etl.cli"))
    results.finish()


if __name__ == "__main__":
    main()
