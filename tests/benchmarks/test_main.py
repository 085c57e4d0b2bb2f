from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import benchmarks
from benchmarks.__main__ import ALL, BEGIN, ELSEWHERE, END, end, load, put, table
from benchmarks.harness import Results
from benchmarks.profile import part_of, shares, tops


def test_every_module_can_be_imported_and_every_benchmark_is_one():
    names = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)}
    for name in sorted(names - {"__main__", "embedding", "gaps", "gpu", "standin"}):  # these need torch
        importlib.import_module(f"benchmarks.{name}")
    assert names >= {*ALL, *ELSEWHERE}


def test_the_table_stands_between_its_marks(tmp_path):
    results = Results("descriptor")
    results.add("faster", 120.0, "x", at_least=100)
    results.note("a note")
    (tmp_path / "descriptor.json").write_text(json.dumps(results.to_dict()))
    (tmp_path / "unknown.json").write_text("{}")  # of a benchmark that isn't there any more
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        put(table(load(tmp_path)), page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("| descriptor | faster | 120x | >= 100x | met |") == 1
    assert "- descriptor: a note" in text


def test_a_file_without_marks_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "page.md").write_text("no marks")
    for page in ("page.md", "absent.md"):
        with pytest.raises(SystemExit, match="without them"):
            put("table", tmp_path / page)
    command = [sys.executable, "-m", "benchmarks", "descriptor", "--table", str(tmp_path / "absent.md")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "== descriptor" not in done.stdout


def test_a_benchmark_that_is_stopped_puts_away_what_it_made(tmp_path):
    code = """
import sys, tempfile, time
with tempfile.TemporaryDirectory(dir=sys.argv[1]):
    print("ready", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    end(process)
    process.stdout.close()
    assert process.returncode != 0
    assert not list(tmp_path.iterdir())


def test_a_look_counts_for_the_innermost_part_that_it_passes():
    folded = (
        "<module> (profile.py:1);worker (profile.py:2);estimate_partition (etl/stages/estimate.py:9);"
        "invoke (ai_edge_litert/interpreter.py:5);memcpy (libc.so.6) 6\n"
        "worker (profile.py:2);decode (etl/media/frames.py:7);read (libc.so.6) 3\n"
        "worker (profile.py:2);idle (threading.py:1) 1"
    )
    assert shares(folded) == {"networks": 0.6, "decoding": 0.3, "other": 0.1}
    assert tops(folded, 1) == [("memcpy (libc.so.6)", 0.6)]
    assert part_of(["worker (profile.py:2)"]) == "other"
