"""Stand-ins for partitions: each takes a while, writes a file of its own, and leaves a mark at every execution."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import time
from pathlib import Path


def partition(number: int, seconds: float, folder: str) -> int:
    """Write the result of partition `number` after `seconds`; marks in `marks/<number>` count executions.

    A worker may die after its last write and before the driver has heard of it; dask runs the task again then, and
    the result that is already there is taken.
    """
    base = Path(folder)
    if (base / "results" / str(number)).exists():
        return number
    mark(base, number)
    end = time.monotonic() + seconds
    value = b""
    while time.monotonic() < end:
        value = hashlib.sha256(value).digest()
        time.sleep(0.02)
    commit(base, number)
    return number


def hungry(number: int, seconds: float, folder: str) -> int:
    """As `partition`, but partition 3 takes all memory the first time."""
    base = Path(folder)
    if number == 3 and not (base / "marks" / "3").exists():
        mark(base, number)
        hoard = []
        while True:
            hoard.append(b"x" * 10_000_000)
            time.sleep(0.001)
    return partition(number, seconds, folder)


def suicidal(number: int, seconds: float, folder: str) -> int:
    """As `partition`, but every fourth one kills its worker the first time."""
    base = Path(folder)
    if number % 4 == 0 and not (base / "marks" / str(number)).exists():
        mark(base, number)
        os.kill(os.getpid(), signal.SIGKILL)
    return partition(number, seconds, folder)


def freezing(number: int, seconds: float, folder: str) -> int:
    """As `partition`, but partition 2 stops its process and the nanny, which would start another, for good."""
    base = Path(folder)
    if number == 2 and not (base / "marks" / "2").exists():
        mark(base, number)
        os.kill(os.getppid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
    return partition(number, seconds, folder)


def mark(base: Path, number: int) -> None:
    with (base / "marks" / str(number)).open("a") as file:
        file.write("x")


def commit(base: Path, number: int) -> None:
    temporary = base / "results" / f".{number}.{secrets.token_hex(4)}"
    temporary.write_bytes(content(number))
    temporary.replace(base / "results" / str(number))


def content(number: int) -> bytes:
    """What partition `number` holds, whoever computes it."""
    return hashlib.sha256(str(number).encode()).digest() * 64


def prepare(base: Path) -> None:
    for name in ["results", "marks"]:
        (base / name).mkdir(parents=True, exist_ok=True)


def done(base: Path) -> set[int]:
    """Partitions whose result is there."""
    return {int(path.name) for path in (base / "results").glob("[0-9]*")}


def executions(base: Path) -> dict[int, int]:
    """How often each partition was begun."""
    return {int(path.name): path.stat().st_size for path in (base / "marks").iterdir()}


def node() -> dict[str, str | None]:
    names = ["SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"]
    return {name: os.environ.get(name) for name in names} | {"pid": str(os.getpid())}
