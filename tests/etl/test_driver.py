from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from etl import driver
from etl.driver import Watch, status_text
from etl.schedule import Outcome
from etl.stages.pace import Pace


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Facts of an outcome of 60 rows, 40 of 100 having been there before."""
    monkeypatch.setattr(driver.cluster, "workers_summary", lambda cluster: {"workers": 2})
    watch = Watch(SimpleNamespace(stopping=False, cluster=None), "h36m", 200, 40)  # type: ignore[arg-type]

    def of(pace: Pace) -> dict[str, Any]:
        outcome = Outcome(pace=pace)
        outcome.counts.update({"ok": 58, "no_person": 2})
        return watch.facts(outcome, 3)

    return of


def text(facts: dict[str, Any]) -> str:
    return status_text(SimpleNamespace(status=facts, state="running", started=time.time(), owner="me"))


def test_facts_count_rows(facts: Any) -> None:
    found = facts(Pace())
    assert (found["rows_done"], found["rows_total"], found["failed_rows"]) == (100, 200, 2)
    assert found["waiting"] is None
    assert "pace" not in text(found)


@pytest.mark.parametrize(
    ("pace", "expected"),
    [
        (Pace(1, 99), "model-bound: the models wait for frames 1% of the time"),
        (Pace(60, 40), "decode-bound: the models wait for frames 60% of the time"),
    ],
)
def test_status_says_what_the_run_is_bound_by(facts: Any, pace: Pace, expected: str) -> None:
    assert expected in text(facts(pace))


def test_status_of_a_run_that_does_not_tell(facts: Any) -> None:
    """A driver of an older version publishes no such fact."""
    found = facts(Pace(1, 99))
    del found["waiting"]
    assert "pace" not in text(found)
    assert "100 of 200" in text(found)
