from __future__ import annotations

import json

import pytest

from benchmarks.harness import RESULTS, Figure, Results, Sample, interleaved, median, ratio

RUNS = {
    "slow": [Sample(4.0, 2.0), Sample(6.0, 2.0), Sample(50.0, 2.0)],
    "fast": [Sample(2.0, 1.0), Sample(2.0, 0.5), Sample(5.0, 2.0)],
}


def test_a_ratio_says_how_many_times_as_fast_the_second_is():
    assert ratio(RUNS, "slow", "fast") == 3.0  # of 2, 3 and 10: each round against its own
    assert ratio(RUNS, "slow", "fast", "cpu") == 2.0
    assert ratio(RUNS, "fast", "slow") == pytest.approx(1 / 3)
    assert median(RUNS, "slow") == 6.0


@pytest.mark.parametrize(
    ("measured", "at_least", "at_most", "verdict"),
    [
        (0.93, 0.93, None, "met"),
        (0.929, 0.93, None, "short"),
        (10.0, None, 10.0, "met"),
        (10.1, None, 10.0, "short"),
        (float("nan"), 1.0, None, "short"),
        (float("inf"), None, 1.0, "short"),
        (5.0, None, None, "-"),
    ],
)
def test_verdicts(measured, at_least, at_most, verdict):
    assert Figure("a", measured, "x", at_least, at_most).verdict == verdict


def test_what_is_compared_runs_in_turn_and_every_other_round_backwards():
    order: list[str] = []
    works = {name: (lambda name=name: order.append(name)) for name in "abc"}
    runs = interleaved(works, rounds=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"  # the first is the warm-up
    assert {name: len(samples) for name, samples in runs.items()} == {"a": 3, "b": 3, "c": 3}


def test_results_go_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv(RESULTS, str(tmp_path))
    results = Results("thing")
    results.add("speed", 2.0, "x", at_least=1.5)
    results.note("left out")
    results.finish()
    found = json.loads((tmp_path / "thing.json").read_text())
    assert found["figures"][0]["verdict"] == "met"
    assert found["notes"] == ["left out"]
