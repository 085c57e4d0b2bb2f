"""Run the benchmarks and gather their figures.

    python -m benchmarks [NAME ...] [--quick] [--results DIR] [--table FILE]

Each runs in a process of its own, since start-up, memory and threads are part of what is measured. Results go to
DIR/<name>.json and, all together, between the marks in FILE. At the end each figure is one line: name, measured, goal,
met or short. A benchmark that fails, or that can't run here, is a note among the results, and the others go on. All of
them take three quarters of an hour on two cores and 12 GB of temporary files; `--quick` takes minutes on little
material, whose figures show that everything runs and no more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Figure, Results

HERE = Path(__file__).parent
# In order: what is bound by the processor first, then what fills the disk.
ALL = (
    "estimate", "reference", "runtimes", "descriptor", "embedding", "gaps", "profile", "startup", "driver", "query",
    "resume", "annotate", "feature_file", "npz", "merge", "judge", "slurm",
)  # fmt: skip
QUICK = {
    "estimate": ("--frames", "32", "--rounds", "2"),
    "reference": ("--frames", "4", "--rounds", "1"),
    "runtimes": ("--networks", "rtmdet-tiny", "rtmpose-t", "--rounds", "3"),
    "embedding": ("--rounds", "3"),
    "gaps": ("--frames", "128", "--rounds", "1"),
    "profile": ("--frames", "32"),
    "descriptor": ("--rounds", "3"),
    "startup": ("--rounds", "1"),
    "driver": ("--partitions", "400"),
    "query": ("--share", "0.07"),
    "resume": ("--share", "0.07"),
    "annotate": ("--share", "0.03"),
    "feature_file": ("--rounds", "3"),
    "npz": ("--frames", "1000", "--rounds", "2"),
    "merge": ("--frames", "2500", "5000"),
}
SIMULATED = ("query", "resume")  # share one simulated store
OPENMMLAB = HERE.parent / ".venv-openmmlab" / "bin" / "python"  # `make openmmlab`
ELSEWHERE = dict.fromkeys(("reference", "runtimes", "embedding", "gaps"), OPENMMLAB)
LIMIT = 1500  # seconds, of one benchmark
GRACE = 20  # seconds that a stopped one has to put away what it made
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of figures -->"


def run(name: str, results: Path, store: Path, *, quick: bool) -> str:
    """Run one benchmark; in words why it has no figures, or nothing."""
    print(f"\n== {name}", flush=True)
    (results / f"{name}.json").unlink(missing_ok=True)  # an earlier run's
    python = ELSEWHERE.get(name, Path(sys.executable))
    if not python.exists():
        return f"left out: it needs {python.relative_to(HERE.parent)} (make openmmlab)"
    command = [python, "-m", f"benchmarks.{name}", *(QUICK.get(name, ()) if quick else ())]
    command += ["--store", store] if name in SIMULATED else []
    environment = {**os.environ, RESULTS: str(results)}
    process = subprocess.Popen(command, env=environment, cwd=HERE.parent, start_new_session=True)
    try:
        code = process.wait(LIMIT)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        end(process)
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"stopped after {LIMIT} s"
    return f"failed with exit status {code}" if code else ""


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a benchmark to end, as Ctrl-C does, so that it removes its files; then end it with all that it started."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def note(name: str, why: str, results: Path) -> None:
    """Leave word of a benchmark that has no figures."""
    facts: dict[str, Any] = {**Results(name).to_dict(), "notes": [why]}
    path = results / f"{name}.json"
    if path.exists():  # figures that it wrote before it failed
        facts = json.loads(path.read_text())
        facts["notes"].append(why)
    path.write_text(json.dumps(facts, indent=1) + "\n")


def load(results: Path) -> list[dict[str, Any]]:
    """All results in the folder, those of earlier runs too, in the order of `ALL`."""
    found = [json.loads((results / f"{name}.json").read_text()) for name in ALL if (results / f"{name}.json").exists()]
    return found


def figure_of(values: dict[str, Any]) -> Figure:
    """Read a figure back."""
    return Figure(**{name: values[name] for name in ("name", "measured", "unit", "at_least", "at_most")})


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row a figure, the notes below."""
    machines = {f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in results}
    dates = sorted({r["date"] for r in results if "date" in r})
    loads = [value for r in results for value in r["load"]]
    span = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"
    when = f" on {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "") if dates else ""
    lines = [f"Measured{when}: {'; '.join(sorted(machines))}; load of the machine meanwhile {span}.", ""]
    lines += ["| benchmark | figure | measured | goal | |", "|---|---|---:|---:|---|"]
    for result in results:
        for values in result["figures"]:
            f = figure_of(values)
            lines.append(f"| {result['benchmark']} | {f.name} | {f.value} | {f.goal} | {f.verdict} |")
    notes = [f"- {result['benchmark']}: {note}" for result in results for note in result["notes"]]
    return "\n".join([*lines, "", *notes]).rstrip()


def around(path: Path) -> tuple[str, str]:
    """What stands before and after the marks in `path`; refused before anything is measured if they aren't there."""
    before, begin, rest = (path.read_text() if path.exists() else "").partition(BEGIN)
    _, end_mark, after = rest.partition(END)
    if not (begin and end_mark):
        raise SystemExit(f"--table takes a file with the marks {BEGIN!r} and {END!r}. Found: {path} without them.")
    return before, after


def put(text: str, path: Path) -> None:
    """Replace what stands between the marks in `path`."""
    before, after = around(path)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--quick", action="store_true", help="little material, to see that everything runs")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--table", type=Path, help="Markdown file that gets the table")
    options = parser.parse_args()
    if options.table:
        if options.quick:
            parser.error("figures of --quick show that everything runs and no more: they go into no --table")
        around(options.table)
    unknown = set(options.names) - set(ALL)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    wanted = options.names or ALL
    folder = options.results.resolve() / "quick" if options.quick else options.results.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="xycd-benchmarks-") as store:
        for name in wanted:
            why = run(name, folder, Path(store) / "simulated", quick=options.quick)
            if why:
                print(f"note: {name} {why}", flush=True)
                note(name, why, folder)
                failed += [name] if not why.startswith("left out") else []
    results = load(folder)
    print()
    for result in results:
        for values in result["figures"]:
            print(figure_of(values).line(72))
        for text in result["notes"] if not result["figures"] else ():
            print(f"{result['benchmark']}: {text}")
    if options.table:
        put(table(results), options.table)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
