from __future__ import annotations

import io

import pytest
from rich.console import Console

from etl.cli.progress_bar import ProgressBar

PATH = "/data/[old]/[/bold]/x"  # rich would take its folders for styles


@pytest.mark.parametrize("terminal", [False, True])
def test_paths_and_names_are_shown_as_they_are(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=400, color_system=None)
    with ProgressBar(console, interval=0) as report:
        report.start("render [h36m]", 2)
        report.advance(1)
        report.note(f"note {PATH}")
        report.advance(1)
        report.finish(f"result {PATH}")
    said = out.getvalue()
    for text in (f"note {PATH}", f"render [h36m]: result {PATH}"):
        assert text in said


def test_a_log_has_no_bar() -> None:
    out = io.StringIO()
    with ProgressBar(Console(file=out, width=200), interval=0) as report:
        report.start("estimate", 10, 4)
        report.advance(3, failed=1)
        report.finish("1 partition")
    first, last = out.getvalue().splitlines()
    assert first.startswith("estimate: 7/10 frames · ")
    assert first.endswith(" · 1 failed")
    assert last == "estimate: 1 partition"
