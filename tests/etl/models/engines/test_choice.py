"""The race of runtimes, by a clock that the test turns, and what is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from etl.errors import ConfigError
from etl.models.engines.choice import check_installed, fastest, installed, race


class Clock:
    """Stands still but for calls of the contestants."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, *seconds: float) -> Callable[[], None]:
        """A call that takes so long: first, second, ... time; the last for ever after."""
        left = list(seconds)

        def call() -> None:
            self.called.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_a_race_takes_medians_in_turn_and_leaves_the_first_call_out():
    clock = Clock()
    contestants = {"torch": clock.taking("torch", 90, 4, 9, 5, 4, 4), "other": clock.taking("other", 50, 2, 2, 8, 8, 2)}
    assert race(contestants, clock=clock, rounds=5, budget_s=1e9) == {"torch": 4, "other": 2}
    one, two = "torch", "other"
    assert clock.called == [one, two, one, two, two, one, one, two, two, one, one, two]


def test_a_slow_race_ends_after_its_budget_but_has_a_round():
    clock = Clock()
    assert race({"torch": clock.taking("torch", 100)}, clock=clock, rounds=5, budget_s=30) == {"torch": 100}
    assert len(clock.called) == 2
    clock = Clock()
    race({"torch": clock.taking("torch", 10)}, clock=clock, rounds=5, budget_s=25)
    assert len(clock.called) == 1 + 3


@pytest.mark.parametrize(
    ("seconds", "winner"),
    [
        ({"torch": 1.0, "onnxruntime": 0.9, "openvino": 0.8}, "openvino"),
        ({"torch": 1.0, "onnxruntime": 0.97}, "torch"),
        ({"torch": 1.0, "onnxruntime": 2.0}, "torch"),
        ({"torch": 1.0}, "torch"),
    ],
)
def test_another_runtime_has_to_be_worth_it(seconds, winner):
    assert fastest(seconds) == winner


def test_what_is_missing_does_not_run_and_is_named(monkeypatch):
    absent = {"openvino"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else object())
    assert installed() == ("torch", "onnxruntime")
    check_installed("onnxruntime")
    with pytest.raises(ConfigError, match=r"openvino is installed.*no openvino.*pip install openvino"):
        check_installed("openvino")
    absent |= {"onnx"}  # without it nothing can be exported
    assert installed() == ("torch",)
    with pytest.raises(ConfigError, match="no onnx"):
        check_installed("onnxruntime")
