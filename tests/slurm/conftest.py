"""A real SLURM for the session, and an empty one after each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.config import ClusterConfig, SlurmConfig
from etl import pipeline
from etl.config import load
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from tests.slurm import whole
from tests.slurm.boot import Slurm, missing, output
from tests.slurm.waiting import until

ROOT = Path(__file__).parents[2]
OUTER = {"minimum", "maximum", "worker_ttl", "dashboard"}  # keys of the section cluster; others are of cluster.slurm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def booted() -> Iterator[Slurm]:
    reason = missing()
    if reason:
        if os.environ.get("XYCD_REQUIRE_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    before = os.environ.get("SLURM_CONF")
    folder = Path(tempfile.mkdtemp(prefix="xycd-slurm-"))
    folder.chmod(0o711)  # munged wants its socket reachable by all, which pytest's own folders aren't
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


@pytest.fixture
def slurm(booted: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """SLURM, idle; afterwards no job is left in it and no key on disk."""
    monkeypatch.chdir(ROOT)  # jobs start where they were submitted, and import tests from there
    yield booted
    try:
        until(lambda: not output("squeue", "-h").strip(), 30, "for jobs to leave")
        assert not list(tmp_path.rglob("*.pem")), "keys left on disk"
        booted.wait_idle()
    finally:
        output("scancel", "-u", "root")


@pytest.fixture
def config() -> Callable[..., ClusterConfig]:
    """A profile for the test SLURM: small jobs, quick reactions."""

    def make(workers: int | None = 2, **options: object) -> ClusterConfig:
        outer = {
            name: options.pop(name) for name in ["minimum", "maximum", "worker_ttl", "dashboard"] if name in options
        }
        values = {"partition": "gpu", "cpus": 1, "memory": "1G", "walltime": "10", "interface": "lo", "poll": 0.5}
        slurm = SlurmConfig.model_validate(values | options)
        return ClusterConfig.model_validate({"kind": "slurm", "workers": workers, "slurm": slurm} | outer)

    return make


@pytest.fixture(scope="session")
def raw(booted: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of Human3.6M for runs of the whole command."""
    folder = tmp_path_factory.mktemp("raw") / "h36m"
    render(folder, Plan(subjects=("S1", "S9"), actions=("Walking",), frames=whole.FRAMES, scale=0.3), workers=1)
    return folder


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, raw: Path, embedded_weights: Path) -> Path:
    """Workspace of an undisturbed run on this machine, with the embedded models as they are."""
    workspace = tmp_path_factory.mktemp("reference") / "work"
    pipeline.run(load(None, whole.settings(workspace, raw) | {"cluster": {"workers": 2}}))
    return workspace


@pytest.fixture
def make(slurm: Slurm, tmp_path: Path, raw: Path, embedded_weights: Path) -> Iterator[Callable[..., whole.Run]]:
    """Configures a run of the whole command: ``make(workers=2, slurm={...})``."""
    runs = []

    def build(*, slurm: dict[str, object] | None = None, **cluster: object) -> whole.Run:
        runs.append(whole.Run(tmp_path, raw, cluster, slurm or {}))
        return runs[-1]

    yield build
    for run in runs:
        run.close()
