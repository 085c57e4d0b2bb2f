"""Several workers in one job."""

from __future__ import annotations

import pytest

from cluster.slurm import launcher


@pytest.mark.parametrize(
    ("devices", "count", "expected"),
    [
        ("0,1,2,3", 4, ["0", "1", "2", "3"]),
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("0", 2, ["0", "0"]),
        ("0,1", 3, ["0", "1", "0"]),
        ("", 2, [None, None]),
        (None, 1, [None]),
    ],
)
def test_shares(devices: str | None, count: int, expected: list[str | None]) -> None:
    assert launcher.split_devices(devices, count) == expected


def test_arguments() -> None:
    given = ["tls://h:1", "--name", "run-3", "--nthreads", "1"]
    assert launcher.worker_arguments(given, 2) == ["tls://h:1", "--name", "run-3-2", "--nthreads", "1"]
    assert given[2] == "run-3"


def test_environment() -> None:
    environ = {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0,1", "HOME": "/h"}
    assert launcher.worker_environment(environ, "1", 2) == {
        "OMP_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "1",
        "HOME": "/h",
    }
    assert launcher.worker_environment(environ, None, 2)["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(launcher.signal, "signal", lambda number, handler: None)
    assert launcher.main(["2", "--help", "--name", "x"]) == 0
    assert launcher.main(["2", "--no-such-option-and-no-scheduler", "--name", "x"]) != 0
