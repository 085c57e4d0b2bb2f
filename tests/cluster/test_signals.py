"""Ctrl-C once, twice, more; SIGTERM; SIGHUP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from cluster.signals import Interrupts, Terminated


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_once_twice_more() -> None:
    calls: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(lambda: calls.append(1)) as interrupts:
        assert not interrupts.stopping
        send(signal.SIGINT)
        assert interrupts.stopping
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        send(signal.SIGINT)  # cleaning up isn't cut short
        send(signal.SIGTERM)
    assert calls == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_terminate_leaves_through_finally() -> None:
    cleaned: list[bool] = []

    def work() -> None:
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            cleaned.append(True)

    with Interrupts(), pytest.raises(Terminated) as caught:
        work()
    assert cleaned
    assert caught.value.code == 143


def test_hangup_is_nothing() -> None:
    with Interrupts() as interrupts:
        send(signal.SIGHUP)
        assert not interrupts.stopping


def test_other_threads_change_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def enter() -> None:
        with Interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


IMPORTS = """
import signal, threading
def handler(number, frame): pass
signal.signal(signal.SIGINT, handler)
def load():
    import cluster.slurm.cluster
{how}
import dask_jobqueue.runner
print(signal.getsignal(signal.SIGINT) is handler)
"""


@pytest.mark.parametrize("how", ["load()", "t = threading.Thread(target=load); t.start(); t.join()"])
def test_importing_dask_jobqueue_leaves_ctrl_c_alone(how: str) -> None:
    command = [sys.executable, "-c", IMPORTS.format(how=how)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
