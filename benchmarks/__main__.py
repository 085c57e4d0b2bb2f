"""Run the benchmarks and gather their figures.

    python -m benchmarks [NAME ...] [--quick] [--results DIR] [--table FILE]

Each runs in a process of its own, since start-up, memory and threads are part of what is measured. Results go to
DIR/<name>.json and, all together, between the marks in FILE. At the end each figure is one line: name, measured, goal,
met or short. A benchmark that fails, or that can't run here, is a note among the results, and the others go on. All of
them take half an hour on two cores and 12 GB of temporary files; `--quick` takes minutes on little material, whose
figures show that everything runs and no more.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Figure, machine

HERE = Path(__file__).parent
# In order: what is bound by the processor first, then what fills the disk.
ALL = (
    "estimate", "runtimes", "descriptor", "startup", "driver", "query", "resume", "annotate", "feature_file", "npz",
    "merge", "judge", "slurm",
)  # fmt: skip
QUICK = {
    "estimate": ("--frames", "32", "--rounds", "2"),
    "runtimes": ("--networks", "rtmdet-tiny", "rtmpose-t", "--rounds", "3"),
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
ELSEWHERE = {"runtimes": HERE.parent / ".venv-openmmlab" / "bin" / "python"}  # `make openmmlab`
LIMIT = 1500  # seconds, of one benchmark
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
        os.killpg(process.pid, signal.SIGTERM)  # with the processes that it started
        process.wait()
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"stopped after {LIMIT} s"
    return f"failed with exit status {code}" if code else ""


def note(name: str, why: str, results: Path) -> None:
    """Leave word of a benchmark that has no figures."""
    facts = {"benchmark": name, "figures": [], "notes": [why], "machine": machine(), "load": [os.getloadavg()[0]]}
    path = results / f"{name}.json"
    if path.exists():  # figures that it wrote before it failed
        facts = json.loads(path.read_text())
        facts["notes"].append(why)
    path.write_text(json.dumps(facts, indent=1) + "\n")


def load(results: Path) -> list[dict[str, Any]]:
    """All results in the folder, in the order of `ALL`."""
    found = [json.loads(path.read_text()) for path in results.glob("*.json")]
    return sorted(found, key=lambda r: ALL.index(r["benchmark"]) if r["benchmark"] in ALL else len(ALL))


def figure_of(values: dict[str, Any]) -> Figure:
    """Read a figure back."""
    return Figure(**{name: values[name] for name in ("name", "measured", "unit", "at_least", "at_most")})


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row a figure, the notes below."""
    machines = {f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in results}
    loads = [value for r in results for value in r["load"]]
    span = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"
    lines = [f"Measured on {'; '.join(sorted(machines))}; load of the machine meanwhile {span}.", ""]
    lines += ["| benchmark | figure | measured | goal | |", "|---|---|---:|---:|---|"]
    for result in results:
        for values in result["figures"]:
            f = figure_of(values)
            lines.append(f"| {result['benchmark']} | {f.name} | {f.value} | {f.goal} | {f.verdict} |")
    notes = [f"- {result['benchmark']}: {note}" for result in results for note in result["notes"]]
    return "\n".join([*lines, "", *notes]).rstrip()


def put(text: str, path: Path) -> None:
    """Replace what stands between the marks in `path`."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has no marks {BEGIN!r} and {END!r}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--quick", action="store_true", help="little material, to see that everything runs")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--table", type=Path, help="Markdown file that gets the table")
    options = parser.parse_args()
    unknown = set(options.names) - set(ALL)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    wanted = [name for name in options.names or ALL if (HERE / f"{name}.py").exists()]
    folder = options.results.resolve()
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
    if options.table:
        put(table(results), options.table)
    print()
    for result in results:
        for values in result["figures"]:
            print(figure_of(values).line(72))
        for text in result["notes"] if not result["figures"] else ():
            print(f"{result['benchmark']}: {text}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
