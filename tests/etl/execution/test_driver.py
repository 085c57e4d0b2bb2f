from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cluster
from cluster.config import ClusterConfig
from cluster.control import read_status, send
from etl.config import Config, load
from etl.execution.driver import Driver, Stopped
from etl.execution.progress import Progress
from etl.execution.scheduling import Outcome
from etl.execution.status import status_text
from etl.stages.progress import Silent
from etl.stages.throughput import WorkTimes


@pytest.fixture
def facts() -> Any:
    """Facts of an outcome of 60 rows, 40 of 100 having been there before."""
    published: dict[str, Any] = {}
    driver: Any = SimpleNamespace(
        stopping=False, workers=lambda: {"workers": 2}, poll=lambda: False, publish=lambda **new: published.update(new)
    )

    def of(pace: WorkTimes) -> dict[str, Any]:
        progress, outcome = Progress(Silent(), driver, "h36m"), Outcome(pace=pace)
        outcome.counts.update({"ok": 58, "no_person": 2})
        progress.begin("estimate", 200, 40)
        assert not progress.check_in(outcome, 3)
        return dict(published)

    return of


def text(facts: dict[str, Any]) -> str:
    return status_text(SimpleNamespace(status=facts, state="running", started=time.time(), driver="me"))


def test_facts_count_rows(facts: Any) -> None:
    found = facts(WorkTimes())
    assert (found["rows_done"], found["rows_total"], found["failed_rows"]) == (100, 200, 2)
    assert found["waiting"] is None
    assert "pace" not in text(found)


@pytest.mark.parametrize(
    ("pace", "expected"),
    [
        (WorkTimes(1, 99), "model-bound: the models wait for frames 1% of the time"),
        (WorkTimes(60, 40), "decode-bound: the models wait for frames 60% of the time"),
    ],
)
def test_status_says_what_the_run_is_bound_by(facts: Any, pace: WorkTimes, expected: str) -> None:
    assert expected in text(facts(pace))


def test_status_of_a_run_that_does_not_tell(facts: Any) -> None:
    """A driver of an older version publishes no such fact."""
    found = facts(WorkTimes(1, 99))
    del found["waiting"], found["unit"]
    assert "pace" not in text(found)
    assert "100 of 200" in text(found)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(None, {"workspace": str(tmp_path / "w"), "datasets": {"folder": {"root": str(tmp_path)}}})


@contextmanager
def asking(config: Config, kind: Any, argument: str = "") -> Iterator[None]:
    """Send a command to the run from another thread."""
    folder = config.workspace.resolve() / "run"
    thread = threading.Thread(target=lambda: send(folder, kind, argument))
    thread.start()
    yield
    thread.join()


def advance_until_stopped(report: Progress) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        report.advance(1, failed=1)
        time.sleep(0.05)


@pytest.mark.parametrize(("argument", "error"), [("", Stopped), ("now", KeyboardInterrupt)])
def test_annotate_and_merge_are_seen_and_heed_a_stop(config: Config, argument: str, error: Any) -> None:
    with Driver(config, Silent()) as driver:
        report = Progress(Silent(), driver, "h36m")
        report.start("merge", 10_000, 7, unit="rows")
        with asking(config, "stop", argument), pytest.raises(error):
            advance_until_stopped(report)
        assert driver.stopping
        time.sleep(1.2)
        shown = text(read_status(config.workspace / "run").status)
    assert "stage        merge h36m" in shown
    assert "rows         " in shown
    assert " of 10,000" in shown
    assert " rows/s" in shown


def test_a_stopped_run_begins_no_other_step(config: Config) -> None:
    with Driver(config, Silent()) as driver:
        driver.raise_if_stopped()
        with asking(config, "stop"):
            end = time.monotonic() + 30
            while not driver.handle_commands() and time.monotonic() < end:
                time.sleep(0.05)
        with pytest.raises(Stopped):
            driver.raise_if_stopped()


def test_the_folder_of_jobs_is_published(tmp_path: Path, config: Config) -> None:
    slurm = ClusterConfig.model_validate({"kind": "slurm", "slurm": {"folder": str(tmp_path / "shared")}})
    with Driver(config.model_copy(update={"cluster": slurm}), Silent()):
        time.sleep(1.2)
    folder = read_status(config.workspace / "run").status["folder"]
    assert Path(folder).parent == tmp_path / "shared"


def test_work_for_a_cluster_without_a_maximum(config: Config) -> None:
    """As dask's own `.adapt()` leaves it."""
    with cluster.start(ClusterConfig(workers=1)) as workers, Driver(config, Silent(), workers) as driver:
        assert driver.capacity() == 1
        workers.adapt()
        assert cluster.workers_summary(workers)["adaptive"] == "0:"
        assert driver.capacity() == 2
        workers.adapt(minimum=0, maximum=5)
        assert driver.capacity() == 5


class CountedCluster:
    """Stands for a cluster that was started; counts what becomes of it."""

    workers_per_job = 1

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __enter__(self) -> CountedCluster:
        self.log.append("cluster up")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("cluster down")

    def usage(self) -> dict[str, float]:
        return {"17": 0.5}


class CountedClient:
    def __init__(self, cluster: CountedCluster) -> None:
        self.log = cluster.log

    def __enter__(self) -> CountedClient:
        self.log.append("client up")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("client down")


class Notes(Silent):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def note(self, text: str) -> None:
        self.log.append(text)


@pytest.mark.parametrize("given", [False, True])
def test_workers_go_before_merge_and_come_back_for_more(
    config: Config, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    log: list[str] = []
    monkeypatch.setattr("distributed.Client", CountedClient)
    monkeypatch.setattr(cluster, "start", lambda *_, **__: CountedCluster(log))
    summary = {"dashboard": "", "workers": 2, "wanted": 2, "problems": [[0, "job 7 is gone"]]}
    monkeypatch.setattr(cluster, "workers_summary", lambda _: summary)
    with Driver(config, Notes(log), CountedCluster(log) if given else None) as driver:
        assert driver.client(4) is driver.client(4)
        driver.dismiss()
        driver.dismiss()
        assert driver.workers()["problems"] == summary["problems"]
        assert driver.workers()["workers"] == (2 if given else 0)
        driver.client(4)
    one = ["cluster up", "client up", "client down", "cluster down", "GPU-hours: 0.50 in 1 jobs (17 0.50)"]
    assert log == (["client up", "client down", one[-1]] if given else 2 * one)


def test_a_run_that_stops_replaces_no_jobs(config: Config) -> None:
    held: list[str] = []
    driver = Driver(config, Silent(), SimpleNamespace(hold=held.append, failure=None))
    assert not driver.poll()
    assert held == []
    driver._stop_requested = True
    assert driver.poll()
    assert held == ["the run is stopping"]
