"""A write waits for space; what was computed isn't lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from etl.errors import SpaceError, WorkspaceError
from etl.store import space
from etl.store.space import LONGEST_PAUSE, OVERDUE, Ledger, Waiting, is_full, once_there_is_space
from tests.cluster.small_disk import fill, fill_inodes, mounted


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self.now += seconds
        return False


def full_until(clock: Clock, seconds: float) -> Callable[[], str]:
    """A write that works once so much time has passed."""

    def write() -> str:
        if clock.now < seconds:
            raise SpaceError("The workspace must be writable.", "/w: Disk quota exceeded", "Free some space.")
        return "written"

    return write


def test_a_write_is_tried_until_there_is_space() -> None:
    clock, said = Clock(), list[str]()
    write = full_until(clock, 3600)
    done = once_there_is_space(write, 7200, say=lambda kind, **_: said.append(kind), sleep=clock.sleep, clock=clock)
    assert done == "written"
    assert said == ["waiting"] * len(clock.slept) + ["written"]
    growing = clock.slept[:5]
    assert growing == sorted(growing)
    assert max(clock.slept) <= LONGEST_PAUSE
    assert len(clock.slept) < 100  # a minute apart, in the end


def test_a_write_that_works_says_nothing() -> None:
    said: list[str] = []
    assert once_there_is_space(lambda: 1, 60, say=lambda kind, **_: said.append(kind)) == 1
    assert said == []


@pytest.mark.parametrize("patience", [0, 1, 30])
def test_patience_ends(patience: float) -> None:
    clock = Clock()
    with pytest.raises(SpaceError, match="quota"):
        once_there_is_space(full_until(clock, 1e9), patience, say=lambda *_, **__: None, sleep=clock.sleep, clock=clock)
    assert clock.now == pytest.approx(patience)


def test_other_errors_are_not_waited_for() -> None:
    def write() -> None:
        raise WorkspaceError("The workspace must be writable.", "read-only", "Choose another.")

    with pytest.raises(WorkspaceError, match="read-only"):
        once_there_is_space(write, 60, sleep=lambda _: pytest.fail("it waited"))


def test_who_is_told_to_leave_waits_no_more() -> None:
    def say(kind: str, **_: object) -> None:
        space.leave()  # the driver answers the first word

    with pytest.raises(SpaceError):
        once_there_is_space(full_until(Clock(), 1), 3600, say=say)
    # The next task of this process waits again.
    clock = Clock()
    assert once_there_is_space(full_until(clock, 5), 60, say=lambda *_, **__: None, sleep=clock.sleep, clock=clock)


def test_the_driver_knows_who_waits() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    assert waiting.text() == ""
    waiting.note({"kind": "waiting", "worker": "a", "reason": "/w: quota", "again": 10})
    waiting.note({"kind": "waiting", "worker": "b", "reason": "/w: quota", "again": 60})
    assert waiting.text() == "waiting for space: /w: quota (2 waiting)"
    waiting.note({"kind": "written", "worker": "b"})
    clock.now = 10 + OVERDUE
    assert waiting.drop_the_silent() == []
    clock.now += 1
    assert waiting.drop_the_silent() == ["a"]  # its job is over, say
    assert waiting.text() == ""


def test_a_ledger_keeps_what_it_could_not_write() -> None:
    clock, written = Clock(), list[int]()
    ledger = Ledger(600, clock)

    def line(number: int) -> Callable[[], None]:
        def write() -> None:
            full_until(clock, 100)()
            written.append(number)

        return write

    for number in range(5):
        ledger.add(line(number))
    assert (written, len(ledger), ledger.reason) == ([], 5, "/w: Disk quota exceeded")
    for clock.now in range(1, 200):
        ledger.settle()
    assert written == [0, 1, 2, 3, 4]
    assert (len(ledger), ledger.reason) == (0, "")
    ledger.add(line(5))
    assert written[-1] == 5


def test_a_ledger_does_not_wait_for_ever() -> None:
    clock = Clock()
    ledger = Ledger(50, clock)
    ledger.add(lambda: full_until(clock, 1e9)() and None)
    clock.now = 49
    ledger.settle()
    clock.now = 120
    with pytest.raises(SpaceError):
        ledger.settle()
    with pytest.raises(SpaceError):
        Ledger(0, clock).add(lambda: full_until(clock, 1e9)() and None)


def test_is_full_is_empty_for_a_folder_that_takes_files(tmp_path: Path) -> None:
    assert is_full(tmp_path) == ""
    assert is_full(tmp_path / "absent") == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("exhaust", "reason"), [(fill, "No space left"), (fill_inodes, "no inodes left")])
def test_a_real_full_disk(tmp_path: Path, exhaust: Callable[[Path], Path], reason: str) -> None:
    with mounted(tmp_path / "disk", kib=256, inodes=40) as disk:
        assert is_full(disk) == ""
        exhaust(disk)
        assert reason in is_full(disk)
