from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from etl.cli.app import app, main
from etl.config import Config
from schemas.errors import SchemaError
from schemas.features import Status
from tests.etl import stores
from tests.etl.conftest import CAMERAS, Walk

runner = CliRunner()
HEAVY = ("numpy", "xarray", "dask", "distributed", "cv2", "av", "pandas", "pydantic", "torch", "ai_edge_litert")
VERBS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def xycd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command as a person starts it, but in this process: imports take seconds."""

    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["xycd", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return call


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert len(result.output.split("\n")) > 5


def test_help_imports_nothing_heavy() -> None:
    # What makes --help quick; a timed test would fail on a busy machine.
    code = f"import sys, etl.cli; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "at least one dataset"),
        (["run", "--root", "x"], "no dataset is named"),
        (["run", "h63m", "--root", "x"], "did you mean 'h36m'"),
        (["run", "h36m", "--root", "/nowhere"], "no folder /nowhere"),
        (["run", "h36m", "--root", ".", "--hz", "30"], "50, 25 or 10"),
        (["run", "folder", "--root", ".", "--subjects", "S1"], "'datasets.folder.subjects'"),
        (["run", "folder", "--root", ".", "--models", "embeded"], "embedded"),
        (["run", "folder", "--root", ".", "--set", "models.options.threds=2"], "Did you mean 'threads'"),
        (["plan", "--config", "no.toml"], "No such file"),
        (["plan", "folder", "--root", ".", "--set", "estimate.batsh=3"], "did you mean 'batch'"),
    ],
)
def test_errors_of_configuration_come_before_anything_runs(
    tmp_path: Path, xycd: Callable[..., Done], arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    work = tmp_path / "work"
    extra = [] if arguments[:2] == ["plan", "--config"] else ["--workspace", work]
    done = xycd(*arguments, *extra)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not work.exists()


@pytest.mark.parametrize("verb", ["query", "failures"])
def test_results_of_an_empty_workspace(tmp_path: Path, xycd: Callable[..., Done], verb: str) -> None:
    done = xycd(verb, "--workspace", tmp_path)
    assert done.returncode == 2
    assert "xycd run" in done.stderr


def test_status_without_a_run(tmp_path: Path, xycd: Callable[..., Done]) -> None:
    done = xycd("status", "--workspace", tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_info_tells_versions_and_model_files(xycd: Callable[..., Done]) -> None:
    done = xycd("info")
    assert done.returncode == 0
    assert "xarray" in done.stdout
    assert "embedded" in done.stdout


def test_a_list_of_failures_is_written_to_a_new_folder(tmp_path: Path, xycd: Callable[..., Done]) -> None:
    parts = stores.annotate(tmp_path / "w", stores.keys(["S1"], ["Walking"], ["54138969"]))
    stores.estimate(tmp_path / "w", parts, {3: Status.NO_PERSON})
    target = tmp_path / "new" / "failures.csv"
    done = xycd("failures", "-w", tmp_path / "w", "--to", target)
    assert (done.returncode, done.stdout) == (0, f"1 failures in {target}\n")
    assert "no_person" in target.read_text()


OF_A_WORKSPACE = (
    ["query"], ["failures"], ["info"], ["status"], ["scale", "2"], ["stop"], ["logs"], ["report"],
    ["show", "S1/A/1/0", "3"],
)  # fmt: skip


@pytest.mark.parametrize("arguments", OF_A_WORKSPACE, ids=lambda arguments: arguments[0])
def test_a_configuration_names_the_workspace_and_the_option_wins(
    tmp_path: Path, xycd: Callable[..., Done], arguments: list[str]
) -> None:
    ours, other, toml = tmp_path / "ours", tmp_path / "other", tmp_path / "xycd.toml"
    toml.write_text('workspace = "ours"')
    for options, expected in ([], ours), (["-w", other], other):
        done = xycd(*arguments, "--config", toml, *options)
        said = done.stdout + done.stderr
        assert str(expected) in said
        assert str(other if expected == ours else ours) not in said
    done = xycd(*arguments, "--config", tmp_path / "absent.toml")
    assert done.returncode == 2
    assert "absent.toml" in done.stderr


@pytest.mark.parametrize(
    ("verb", "cluster_workers", "merge_workers"), [("merge", None, 3), ("run", 3, 1), ("annotate", 3, 1)]
)
def test_workers_are_those_of_the_verb(
    tmp_path: Path,
    xycd: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    cluster_workers: int | None,
    merge_workers: int,
) -> None:
    configs: list[Config] = []
    monkeypatch.setattr("etl.pipeline.run", lambda config, **_: configs.append(config) or [])
    assert xycd(verb, "folder", "--root", tmp_path, "--workers", "3").returncode == 0
    assert (configs[0].cluster.workers, configs[0].merge.workers) == (cluster_workers, merge_workers)


def test_merge_runs_in_as_many_processes_as_asked_for_and_verifies(
    walk: Walk, xycd: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[int] = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, workers: int, *others: Any, **options: Any) -> None:
            pools.append(workers)
            super().__init__(workers, *others, **options)

    monkeypatch.setattr("etl.stages.merge.ProcessPoolExecutor", Pool)
    models = ["--models", "etl.demo.truth:build", "--set", f"models.options.folder='{walk.raw}'"]
    command = ["merge", "h36m", "--hz", "50", "--root", walk.raw, "-w", walk.work, *models]
    assert xycd(*command, "--workers", "2").returncode == 0
    assert pools == [2]
    # A byte that changes no size and no value: the receipt's checksum knows, and nothing else.
    damaged = walk.features(CAMERAS[0])
    content = bytearray(damaged.read_bytes())
    place = content.index(b"xycd_version")
    content[place] ^= 32
    damaged.write_bytes(content)
    assert xycd(*command).returncode == 0
    done = xycd(*command, "--verify")
    assert done.returncode == 2
    assert damaged.name in done.stderr
    assert "estimate" in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "/data/S1"), "error: /data/S1: Permission denied\n"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "error: a/b: Not a directory\n"),
        (
            SchemaError("Folders are keys.", "'junk'", "Remove it."),
            "error: 'junk'\n  Folders are keys.\n  Remove it.",
        ),
    ],
)
def test_errors_of_files_come_without_a_traceback(
    xycd: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("etl.cli.info.describe", fail)
    done = xycd("info")
    assert done.returncode == 2
    assert words in done.stderr


def test_ctrl_c_says_how_to_go_on(xycd: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("etl.cli.info.describe", interrupt)
    done = xycd("info")
    assert done.returncode == 130
    assert "The same command resumes from here." in done.stderr


def test_errors_of_the_program_keep_their_traceback(xycd: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr("etl.cli.info.describe", fail)
    monkeypatch.setattr(sys, "argv", ["xycd", "info"])
    with pytest.raises(OSError, match="Timed out"):
        main()
