"""Questions to a finished workspace of Human3.6M's size: a part of it, all of it, the index of its frames.

    python -m benchmarks.query [--store DIR] [--share 1.0]

Each question is asked in a process of its own, on a warm disk; imports count only where the command is measured. From a
cold start means that neither the store nor Python and its packages are in memory: root drops the page cache, others
ask for their own files to leave it. Which files a query opens is seen by strace. The store is simulated
(benchmarks.simulate) in a temporary folder, or in DIR, where it stays.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Results, Sample, timed
from benchmarks.simulate import simulated

CHOSEN = (("S1", "Directions"), ("S9", "Walking"), ("S5", "Directions"), ("S11", "Walking"), ("S7", "Directions"))


def in_a_process(question: str, workspace: Path, *arguments: str) -> dict[str, Any]:
    """Ask a question of `QUESTIONS` in a fresh process; its answer, seconds and peak memory."""
    command = [sys.executable, "-m", "benchmarks.query", "--ask", question, str(workspace), *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def ask(question: str, workspace: Path, *arguments: str) -> None:
    """Answer a question here, and print what it took."""
    import etl

    etl.open_features  # noqa: B018 - imports are no part of it
    answer: list[Any] = []
    sample = timed(lambda: answer.append(QUESTIONS[question](workspace, *arguments)))
    # Not ru_maxrss, which a new process inherits from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"answer": answer[0], "wall": sample.wall, "cpu": sample.cpu, "peak_mb": peak}))


def load(workspace: Path, subject: str, action: str) -> int:
    import etl

    return etl.open_features(workspace, "h36m").sel(subject=subject, action=action).load().sizes["frame"]


def load_joined(workspace: Path, subject: str, action: str) -> int:
    import etl

    selected = etl.open_features(workspace, "h36m").sel(subject=subject, action=action)
    return selected.load(annotations=True).sizes["frame"]


def summary(workspace: Path) -> int:
    import etl
    from etl.results.tables import summary_table

    return int(summary_table(etl.open_features(workspace, "h36m"), "joint")["frames"].iloc[0])


def condition(workspace: Path) -> int:
    import etl
    from etl.results.tables import summary_table

    selected = etl.open_features(workspace, "h36m").sel(where="confidence < 0.05 and error_px > 10")
    return int(summary_table(selected, "subject")["frames"].sum())


def lazily(workspace: Path) -> float:
    import etl

    ds = etl.open_features(workspace, "h36m").to_xarray(variables=["features"])
    return float(ds["features"].sel(feature="confidence").mean().compute())


def index(workspace: Path) -> int:
    import etl

    return int(etl.open_index(workspace, "h36m").groupby(["action", "status"]).size().compute().sum())


QUESTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (load, load_joined, summary, condition, lazily, index)
}


def words(workspace: Path, subject: str, action: str) -> list[str | Path]:
    """`xycd query` as a person starts it."""
    xycd = Path(sys.executable).with_name("xycd")
    return [xycd, "query", "h36m", "--workspace", workspace, "--subject", subject, "--action", action]


def command(workspace: Path, subject: str, action: str, *, cold: bool = False) -> Sample:
    """Seconds of `xycd query`."""
    arguments = words(workspace, subject, action)
    if cold:
        forget(workspace)
    return timed(lambda: subprocess.run(arguments, check=True, capture_output=True))


def forget(workspace: Path) -> None:
    """Make the kernel drop what it holds of the disk: all of it, or at least this store's and this Python's files."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for path in (path for root in (workspace, Path(sys.prefix)) for path in root.rglob("*") if path.is_file()):
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def opened(workspace: Path, subject: str, action: str) -> tuple[int, int] | None:
    """How many files of the wanted sequences `xycd query` opens, and of others; None without strace."""
    if shutil.which("strace") is None:
        return None
    with tempfile.NamedTemporaryFile("r") as log:
        tracing: list[str | Path] = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", log.name]
        subprocess.run([*tracing, *words(workspace, subject, action)], check=True, capture_output=True)
        paths = set(re.findall(r'"([^"]*/subject=[^"]*\.nc)"', log.read()))
    wanted = {path for path in paths if f"/subject={subject}/action={action}/" in path}
    return len(wanted), len(paths - wanted)


def measure(workspace: Path, results: Results) -> None:
    for folder in workspace.glob("h36m/features/*/index"):
        shutil.rmtree(folder)
    actions = {path.name.partition("=")[2] for path in workspace.glob("h36m/features/*/subject=S1/action=*")}
    chosen = [pair for pair in CHOSEN if pair[1] in actions]
    for question, goal in (("load", 1.0), ("load_joined", None)):
        found = [in_a_process(question, workspace, *pair) for pair in chosen]
        how = "joined with annotations, " if question == "load_joined" else ""
        name = f"one subject and action, {how}in Python, {statistics.median(f['answer'] for f in found):,.0f} frames"
        results.add(name, statistics.median(f["wall"] for f in found), "s", at_most=goal)
        results.add("  of which processor time", statistics.median(f["cpu"] for f in found), "s")
    for cold in (False, True):
        samples = [command(workspace, *pair, cold=cold) for pair in chosen]
        name = f"one subject and action, as a command{', from a cold start' if cold else ''}"
        results.add(name, statistics.median(s.wall for s in samples), "s", at_most=3.0)
        results.add("  of which processor time", statistics.median(s.cpu for s in samples), "s")
    seen = [opened(workspace, *pair) for pair in chosen]
    if any(counts is None for counts in seen):
        results.note("which files a query opens wasn't looked at: there is no strace")
    else:
        results.add("files of the sequences asked for that it opens", sum(n for n, _ in filter(None, seen)) / len(seen))
        results.add("files of other sequences that it opens", sum(n for _, n in filter(None, seen)), at_most=0)
    told = in_a_process("summary", workspace)
    results.add(f"summary by joint of {told['answer']:,} frames", told["wall"], "s", at_most=120)
    results.add("  of which processor time", told["cpu"], "s")
    results.add("  peak memory", told["peak_mb"] / 1024, "GB", at_most=2.0)
    for question, name in (
        ("condition", "joints of low confidence and large error, by subject"),
        ("lazily", "mean confidence of all joints, with dask"),
        ("index", "index of all frames, made and asked"),
        ("index", "index of all frames, asked again"),
    ):
        told = in_a_process(question, workspace)
        results.add(name, told["wall"], "s")
        results.add("  peak memory", told["peak_mb"] / 1024, "GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--ask", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask(options.ask[0], Path(options.ask[1]), *options.ask[2:])
        return
    results = Results("query")
    start = time.perf_counter()
    with simulated(options.store, options.share) as config:
        results.note(f"store ready after {time.perf_counter() - start:.0f} s; load {os.getloadavg()[0]:.1f}")
        measure(config.workspace, results)
    results.finish()


if __name__ == "__main__":
    main()
