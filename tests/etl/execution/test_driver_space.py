"""What a driver says and does while there is no space."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from etl.config import Config, load
from etl.errors import SpaceError
from etl.execution import driver
from etl.execution.driver import Driver, Watch, status_text
from etl.execution.scheduling import Outcome
from etl.stages.progress import Silent, Terminal
from etl.store import space

REASON = "/scratch/w: Disk quota exceeded"


class Held:
    """A cluster that can be put on hold."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def hold(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(None, {"workspace": str(tmp_path / "work"), "cluster": {"wait_for_space": 60}})


def waiting() -> Outcome:
    outcome = Outcome()
    outcome.waiting.note({"kind": "waiting", "worker": "a", "reason": REASON, "again": 1})
    return outcome


def text(facts: dict[str, Any]) -> str:
    return status_text(SimpleNamespace(status=facts, state="running", started=time.time(), owner="me"))


def test_status_says_that_a_run_waits(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.cluster, "workers_summary", lambda cluster: {"workers": 2})
    held = Held()
    with Driver(config, Silent(), held) as it:
        watch = Watch(it, "h36m", 200, 40)
        assert f"space        waiting for space: {REASON} (1 waiting)" in text(watch.facts(waiting(), 3))
        assert "space" not in text(watch.facts(Outcome(), 3))
        watch(waiting(), 3)
        watch(Outcome(), 3)
    assert [bool(reason) for reason in held.reasons] == [True, False]


def test_status_counts_videos_that_were_not_staged(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.cluster, "workers_summary", lambda cluster: {"workers": 2})
    outcome = Outcome(unstaged={"a.mp4": "no room", "b.mp4": "no room"})
    with Driver(config, Silent(), Held()) as it:
        assert "staging      2 videos read where they lie: no room" in text(Watch(it, "h36m", 2, 0).facts(outcome, 1))


def test_the_progress_line_says_that_a_run_waits() -> None:
    out = io.StringIO()
    with Terminal(Console(file=out, width=300), interval=0) as terminal:
        terminal.start("estimate", 10)
        terminal.advance(1, waiting=f"waiting for space: {REASON}")
        terminal.advance(1)
        terminal.advance(1, waiting="")
    first, second, third = out.getvalue().splitlines()
    assert first.endswith(f"waiting for space: {REASON}")
    assert second.endswith(REASON)  # until it is over
    assert "waiting" not in third


def full(times: int) -> Any:
    left = [times]

    def write() -> None:
        if left[0]:
            left[0] -= 1
            raise SpaceError("The workspace must be writable.", REASON, "Free some space.")

    return write


def test_the_bookkeeping_of_a_stage_waits_too(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "FIRST_PAUSE", 0.01)
    with Driver(config, Silent()) as it:
        it.patiently(full(2))
        it.config = load(None, {"cluster": {"wait_for_space": 0}})
        with pytest.raises(SpaceError):
            it.patiently(full(1))


def test_who_is_asked_to_stop_waits_no_more(config: Config) -> None:
    with Driver(config, Silent()) as it:
        it._told = True
        with pytest.raises(SpaceError, match="quota"):
            it.patiently(full(10**9))


def test_gpu_hours_by_job_are_said_at_the_end(config: Config) -> None:
    notes: list[str] = []
    report = SimpleNamespace(note=notes.append)
    for used in ({"11": 1.5, "12": 0.25}, {"13": 0.0}):  # the second are CPU jobs
        with Driver(config, report, SimpleNamespace(usage=lambda used=used: used)):  # type: ignore[arg-type]
            pass
    assert notes == ["GPU-hours: 1.75 in 2 jobs (11 1.50, 12 0.25)"]
