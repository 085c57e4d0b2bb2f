from __future__ import annotations

import os

import pytest

from cluster.processors import cores, processors


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 128
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_processors_are_what_the_cluster_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert processors() == 1
    for text in ("", "many", "0", "1000"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert processors() == allowed
