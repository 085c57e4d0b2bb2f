"""`xycd run` on the test SLURM, as a user starts and watches it, and the comparison with a run on one machine."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr

from cluster.control import read_status
from cluster.errors import NoRun
from etl.store.workspace import FeatureStore, Workspace
from tests.slurm.boot import output
from tests.slurm.waiting import until

FRAMES, SIZE = 16, 2  # of a sequence, of a partition
SEQUENCES = 4
PARTITIONS = SEQUENCES * FRAMES // SIZE
SLURM = {
    "partition": "gpu",
    "cpus": 1,
    "memory": "1G",
    "walltime": "10",
    "interface": "lo",
    "poll": 0.5,
    "driver": {"cpus": 1, "memory": "2G", "walltime": "10"},
}


def settings(workspace: Path, raw: Path) -> dict[str, Any]:
    """What all runs have in common, as `etl.config.load` takes it."""
    return {
        "workspace": str(workspace),
        "datasets": {"h36m": {"root": str(raw), "hz": 50}},
        "estimate": {"partition_frames": SIZE},
    }


def toml(values: dict[str, Any], section: str = "") -> str:
    """`values` as TOML: JSON's scalars and lists are TOML's too."""
    own = "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items() if not isinstance(v, dict))
    inner = ((f"{section}.{k}".strip("."), v) for k, v in values.items() if isinstance(v, dict))
    return own + "".join(f"[{name}]\n{toml(v, name)}" for name, v in inner)


def xycd(*words: object) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    command = [sys.executable, "-m", "etl.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@dataclass
class Run:
    """A run on the test SLURM in a folder of its own; its models are `tests.slurm.held`'s.

    Parameters
    ----------
    folder : Path
        Gets configuration, workspace and log.
    raw : Path
        The dataset.
    cluster, slurm : dict
        Of the sections of the configuration.
    """

    folder: Path
    raw: Path
    cluster: dict[str, Any]
    slurm: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[Any] | None = None

    def __post_init__(self) -> None:
        (self.folder / "held").mkdir()
        if "folder" in self.slurm:
            self.slurm["folder"] = str(self.folder / str(self.slurm["folder"]))
        cluster = {"kind": "slurm", "slurm": SLURM | self.slurm} | self.cluster
        models = {"set": "tests.slurm.held:build", "options": {"folder": str(self.folder)}}
        values = settings(self.workspace, self.raw) | {"models": models, "cluster": cluster}
        self.config.write_text(toml(values))

    @property
    def config(self) -> Path:
        return self.folder / "xycd.toml"

    @property
    def workspace(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        """Start the command as a shell would, in a process group of its own."""
        command = [sys.executable, "-m", "etl.cli", "run", "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def start_in_terminal(self) -> int:
        """Start it in a terminal of its own; the terminal's other end, to close."""
        command = [sys.executable, "-m", "etl.cli", "run", "--config", str(self.config)]
        ours, theirs = pty.openpty()

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its closing is a SIGHUP too

        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_terminal
        )
        os.close(theirs)
        return ours

    def wait(self) -> None:
        """Wait for the command, which must have succeeded."""
        assert self.process is not None
        assert self.process.wait(timeout=240) == 0, self.log

    def kill_9(self) -> None:
        """Kill the command, without a goodbye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End what is left of it."""
        (self.folder / "hold").unlink(missing_ok=True)
        if self.process is not None and self.process.poll() is None:
            self.kill_9()

    # What can be seen of it.

    @property
    def store(self) -> FeatureStore:
        return store_of(self.workspace)

    def status(self) -> dict[str, Any]:
        """The driver's own words; empty before it has said any."""
        try:
            return read_status(self.workspace / "run").status
        except NoRun:
            return {}

    def workers(self) -> dict[str, Any]:
        """What the status says of workers and jobs."""
        found: dict[str, Any] = self.status().get("workers", {})
        return found

    def problems(self) -> str:
        return " / ".join(text for _, text in self.workers().get("problems", []))

    def say(self, *words: object) -> str:
        """Answer of ``xycd WORDS --workspace ...`` from another shell."""
        done = xycd(*words, "--workspace", self.workspace)
        return done.stdout + done.stderr

    def finished(self) -> set[str]:
        """Partitions with a receipt."""
        folders = (self.workspace / "h36m" / "features").glob("*")
        return {partition for folder in folders for partition in FeatureStore(folder).receipts()}

    # What tests do to it.

    def held(self) -> dict[str, int]:
        """Process by job of the workers that are within a partition, now."""
        found = {}
        for path in (self.folder / "held").iterdir():
            job, _, pid = path.name.partition("-")
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(int(pid)).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                    found[job] = int(pid)
        return found

    @contextlib.contextmanager
    def hold(self, workers: int) -> Iterator[dict[str, int]]:
        """Keep partitions from finishing; entered once so many workers are within one each."""
        (self.folder / "hold").touch()
        yield self.wait_held(workers)
        (self.folder / "hold").unlink()

    def wait_held(self, workers: int, *, without: str = "") -> dict[str, int]:
        """Wait until so many workers are within a partition, none of them in the job `without`."""
        until(lambda: len(self.held()) == workers and without not in self.held(), 120, f"for {workers}; {self.held()}")
        return self.held()


def store_of(workspace: Path) -> FeatureStore:
    """The one feature store of a workspace."""
    key = Workspace(workspace).current("h36m").features
    assert key is not None
    return Workspace(workspace).features("h36m", key)


def node_of(job: str) -> str:
    return output("squeue", "-h", "-j", job, "-o", "%N").strip()


def state_of(job: str) -> str:
    """How SLURM says that a job is, or how it ended."""
    return output("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def processes_of(job: str) -> list[int]:
    """The Python processes of a job: a nanny and its worker."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            # setproctitle, where it is installed, lets dask name its processes.
            if process.info["name"].startswith(("python", "dask")) and process.environ().get("SLURM_JOB_ID") == job:
                found.append(process.pid)
    return found


def check(run: Run, reference: Path, *, again: int | range) -> None:
    """The run is complete and its arrays are those of `reference`; faults hit so many workers as in `again`.

    Every fault takes from each worker that it hits the partition that has the networks, and the one before it where
    that is still being written. Nothing that was finished runs again.
    """
    allowed = again if isinstance(again, range) else range(again, again + 1)
    receipts = [json.loads(line) for line in run.store.receipts_path.read_text().splitlines()]
    assert len(receipts) == PARTITIONS
    assert len({receipt["id"] for receipt in receipts}) == PARTITIONS
    assert sum(receipt["rows"] for receipt in receipts) == SEQUENCES * FRAMES
    assert not run.store.failures()
    begun = begun_by(run)
    assert {name for names in begun.values() for name, _ in names} == {receipt["id"] for receipt in receipts}
    lost = torn_off(begun)
    assert len(lost) in allowed, repeated(begun)
    for worker, names in lost.items():
        assert names <= {name for name, _ in begun[worker][-2:]}, repeated(begun)
    same_arrays(run.workspace, reference)
    assert not list(run.folder.rglob("*.pem"))
    assert not {"RUNNING", "PENDING"} & set(output("squeue", "-h", "-o", "%T").split())


Begun = dict[str, list[tuple[str, float]]]


def begun_by(run: Run) -> Begun:
    """The partitions that each worker gave its networks, in order, and when."""
    return {
        path.stem: [(attempt["id"], attempt["time"]) for attempt in map(json.loads, path.read_text().splitlines())]
        for path in (run.store.folder / "attempts").glob("*.jsonl")
    }


def torn_off(begun: Begun) -> dict[str, set[str]]:
    """By worker, the partitions that were begun again later."""
    last = {name: time for _, name, time in in_order(begun)}
    lost: dict[str, set[str]] = collections.defaultdict(set)
    for worker, name, time in in_order(begun):
        if time != last[name]:
            lost[worker].add(name)
    return lost


def in_order(begun: Begun) -> list[tuple[str, str, float]]:
    """Worker, partition and time of each execution, by time."""
    found = [(worker, name, time) for worker, names in begun.items() for name, time in names]
    return sorted(found, key=lambda execution: execution[2])


def repeated(begun: Begun) -> str:
    """Who began the partitions that were begun more than once, and when, for messages."""
    executions = in_order(begun)
    several = {name for names in torn_off(begun).values() for name in names}
    first = executions[0][2]
    return "\n".join(f"{n}: {worker} at {time - first:.1f} s" for worker, n, time in executions if n in several)


def same_arrays(workspace: Path, reference: Path) -> None:
    """All variables of all feature files, and all members of the training files, are the same to the bit."""
    ours, theirs = store_of(workspace), store_of(reference)
    names = sorted(path.relative_to(theirs.folder) for path in theirs.folder.rglob("*.nc"))
    assert len(names) == PARTITIONS
    assert sorted(path.relative_to(ours.folder) for path in ours.folder.rglob("*.nc")) == names
    for name in names:
        assert contents(ours.folder / name) == contents(theirs.folder / name), name
    merged = sorted(path.name for path in (reference / "training").glob("*.npz"))
    assert {"h36m_xycd_train.npz", "h36m_xycd_val.npz"} <= set(merged)
    for name in merged:
        assert members(workspace / "training" / name) == members(reference / "training" / name), name


def contents(path: Path) -> dict[str, Any]:
    """Bytes of each variable of a feature file as stored, and its attributes."""
    with xr.open_dataset(path, decode_cf=False) as ds:
        found: dict[str, Any] = {str(name): exactly(variable.values) for name, variable in ds.variables.items()}
        return found | {"attributes": {str(name): str(value) for name, value in ds.attrs.items()}}


def members(path: Path) -> dict[str, Any]:
    """Bytes of each member of a training file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: exactly(file[name]) for name in file.files}


def exactly(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """Type, shape and bytes."""
    plain = values.astype(str) if values.dtype == object else values  # variable-length text
    return plain.dtype.str, plain.shape, plain.tobytes()
