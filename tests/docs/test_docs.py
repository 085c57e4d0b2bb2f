"""What the documentation shows works: commands parse, settings load, code runs, messages are the program's own."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import cluster.errors
import etl.errors
from etl.cli.app import app
from etl.config import load
from etl.demo.human36m import Plan
from etl.demo.miniature import render
from tests.docs.blocks import PAGES, ROOT, Block, all_blocks, blocks_of

CONFIGURED = {"run", "plan", "annotate", "estimate", "merge", "check"}
RUNNABLE = [page for page in PAGES if any(block.runs for block in blocks_of(page))]


def name(value: Path | Block) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


# ---- what can be checked without running it


@pytest.mark.parametrize("block", all_blocks("toml"), ids=name)
def test_settings_are_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "xycd.toml"
    file.write_text(block.text, encoding="utf-8")
    assert load(file).model_fields_set


@pytest.mark.parametrize("block", all_blocks("sh"), ids=name)
def test_commands_parse(block: Block) -> None:
    for words in block.commands():
        assert words[0] in {"xycd", "make", "export", "python3", "pip"} or "/bin/" in words[0], words
        if words[0] == "xycd":
            parse(words[1:])


def parse(arguments: list[str]) -> None:
    """Read a command line without acting on it; raises where it has what no verb has."""
    command: Any = get_command(app)
    context = None
    while hasattr(command, "commands"):
        verb, *arguments = arguments
        context = command.context_class(command, parent=context, info_name=verb)
        command = command.commands[verb]
    command.make_context(command.name, arguments, parent=context)


def test_unknown_options_are_noticed() -> None:
    with pytest.raises(Exception, match="no-such"):
        parse(["query", "--no-such"])
    with pytest.raises(KeyError):
        parse(["models", "no-such"])


def rules() -> set[tuple[str, str]]:
    """Class and rule of every error that the code raises with words, … standing for what is filled in."""
    found = set()
    for path in (path for package in ("etl", "cluster", "schemas") for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {
            node.targets[0].id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and len(node.args) == 3:
                rule = node.args[0]
                rule = named.get(rule.id, rule) if isinstance(rule, ast.Name) else rule
                parts = rule.values if isinstance(rule, ast.JoinedStr) else [rule]
                words = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
                found.add((ast.unparse(node.func).rpartition(".")[2], "".join(words)))
    return found


def test_faults_are_the_programs_own_words() -> None:
    raised = {rule for _, rule in rules()}
    shown = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", (ROOT / "docs/faults.md").read_text(encoding="utf-8"), re.M)
    assert len(shown) > 60
    assert [rule for rule in shown if rule != "message" and rule.endswith(".") and rule not in raised] == []


def test_every_kind_of_error_has_its_place() -> None:
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    kinds = [
        kind
        for module in (etl.errors, cluster.errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, etl.errors.XycdError)
    ]
    assert [k.__name__ for k in kinds if k is not etl.errors.XycdError and f"`{k.__name__}`" not in text] == []


# ---- what runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a rendered /data/h36m and a finished /scratch/xycd."""
    folder = tmp_path_factory.mktemp("docs")
    subjects, actions = ("S1", "S9"), ("Directions", "Walking")
    plan = Plan(subjects=subjects, actions=actions, cameras=("54138969",), frames=12, scale=0.3)
    render(folder / "data/h36m", plan, workers=1)
    run(["run", "h36m", "--root", "/data/h36m", "-w", "/scratch/xycd", "--set", "estimate.partition_frames=6"], folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, on Python's path for as long as it is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path


def put(text: str, place: Path) -> str:
    """Absolute paths of the documentation, within `place`."""
    return re.sub(r"/(data|scratch)/", rf"{place}/\1/", text)


def run(words: list[str], place: Path) -> str:
    """Run a command, with rendered truth as models where it names none, on one worker."""
    arguments = [put(word, place) for word in words]
    if words[0] in CONFIGURED:
        arguments += ["-n", "1"]
        if "-m" not in words:
            arguments += ["-m", "etl.demo.truth:build", "--set", f"models.options.folder={place}/data/h36m"]
            # Of the prepared workspace: another number would run everything again.
            arguments += ["--set", "estimate.partition_frames=6"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, f"xycd {' '.join(arguments)}\n{done.output}"
    return done.output


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_code_runs(page: Path, place: Path, here: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for block in filter(lambda block: block.runs, blocks_of(page)):
        if block.mark == "needs" and importlib.util.find_spec(block.value) is None:
            continue
        if block.mark == "file":
            (here / block.value).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(put(block.text, place), str(block), "exec"), namespace)
        else:
            for words in block.commands():
                if words[0] == "xycd":
                    assert run(words[1:], place).strip(), f"{block}: {words} says nothing"


def test_a_query_has_the_rows_that_the_tutorial_speaks_of(place: Path, here: Path) -> None:
    assert "complete: 24 frames in 4 finished partitions, 24 ok" in run(["query", "-w", "/scratch/xycd"], place)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "docs/notebooks").glob("*.ipynb")), ids=name)
def test_notebook_runs(path: Path, here: Path) -> None:
    """Cell by cell, on a smaller recording, with its truth as models."""
    changes = {
        "frames=24": "frames=8",
        'render(tour / "h36m", plan)': 'render(tour / "h36m", plan, workers=1)',
        "scale=0.5": "scale=0.3",
        '"estimate": {': '"models": {"set": "etl.demo.truth:build", "options": {"folder": "tour/h36m"}}, "estimate": {',
        "time.sleep(1)": "time.sleep(0.1)",
    }
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells), "notebooks are kept without outputs"
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for old, new in changes.items():
        assert sum(old in source for source in sources) == 1, f"{old!r} is in one cell"
        sources = [source.replace(old, new) for source in sources]
    namespace: dict[str, Any] = {"__name__": "notebook"}
    try:
        for number, source in enumerate(sources):
            exec(compile(source, f"{path.name}, cell {number}", "exec"), namespace)
    finally:
        if "workers" in namespace:
            namespace["workers"].close()
    assert namespace["summary"].rows == {"ok": 16}
    assert namespace["ds"].sizes == {
        "frame": 16,
        "joint": 17,
        "feature": 6,
        "box_edge": 4,
        "image_axis": 2,
        "camera_axis": 3,
    }
    assert float(namespace["error"]["left_wrist"]) < 1
    assert Path("tour/workspace/training/h36m_xycd_train.npz").exists()
    assert len(namespace["figure"].axes) == 2, "drawn, with matplotlib, which is among what development needs"
