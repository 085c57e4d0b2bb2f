"""The pages that the site makes of the code have all that is in the code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from etl.cli.app import app
from etl.config import Config
from schemas import features, xycd
from tests.docs.blocks import ROOT

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("xycd_docs_hooks", ROOT / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def keys_of(model: type[BaseModel], section: str = "") -> Iterator[tuple[str, str]]:
    """Section and name of every key, read from the models themselves."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        below = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if below is None:
            yield section, key
        else:
            yield from keys_of(below, f"{section}.{key}" if section else key)


def test_configuration_has_every_key_in_its_section(hooks: Any) -> None:
    found, section = set(), ""
    for line in hooks.configuration()["keys"].splitlines():
        if line.startswith("## "):
            section = re.sub(r"^## (?:`\[(.*)\]`|.*)$", r"\1", line)
        elif row := re.match(r"\| `(\w+)` \|", line):
            found.add((section, row[1]))
    assert found == set(keys_of(Config))
    assert ("cluster.slurm.driver", "walltime") in found


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 100_000}, "whole number, ≥ 1, ≤ 100,000"),
        ({"type": "number", "exclusiveMinimum": 0.5}, "number, > 0.5"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text"),
        ({"anyOf": [{"enum": [1]}, {"type": "array", "items": {"type": "integer"}}]}, "`1` or list of whole numbers"),
        ({"const": "auglift", "type": "string"}, '`"auglift"`'),
        ({"type": "string", "format": "path"}, "path"),
    ],
)  # fmt: skip
def test_types_in_words(hooks: Any, schema: dict[str, Any], words: str) -> None:
    assert hooks.type_of(schema) == words


def test_names_have_every_feature_and_key(hooks: Any) -> None:
    page = hooks.fill(ROOT / "docs/reference/names.md.in", hooks.names())
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M)
    for name in (*features.BASIC_FEATURES, *features.STATISTICS):
        assert any(row == name and rest.startswith(f"{features.FEATURE_UNITS[name]} | ") for row, rest in rows), name
    for name, key in xycd.KEYS.items():
        assert any(row == name and rest.endswith(key.text) for row, rest in rows), name
    assert "| 7 | `spine` | left_hip, right_hip, left_shoulder, right_shoulder |" in page
    assert "| `no_person` | 1 |" in page
    assert "@" not in page


def test_a_feature_without_definition_stops_the_build(hooks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mkdocs.exceptions import PluginError

    monkeypatch.setattr(features, "STATISTICS", (*features.STATISTICS, "kurtosis"))
    with pytest.raises(PluginError, match="kurtosis"):
        hooks.names()


def test_a_template_takes_all_its_parts_and_no_others(hooks: Any, tmp_path: Path) -> None:
    from mkdocs.exceptions import PluginError

    template = tmp_path / "page.md.in"
    template.write_text("a @one@ b @two@\n")
    assert hooks.fill(template, {"one": "1", "two": r"\2"}) == "a 1 b \\2\n"
    for parts in ({"one": "1"}, {"one": "1", "two": "2", "three": "3"}):
        with pytest.raises(PluginError, match=r"page\.md\.in"):
            hooks.fill(template, parts)


def test_commands_have_every_option(hooks: Any) -> None:
    page = hooks.verbs()
    group: Any = get_command(app)
    for name, verb in group.commands.items():
        part = page.split(f"## `xycd {name}`\n")[1].split("\n## ")[0]
        for parameter in verb.params:
            assert all(option in part for option in parameter.opts if option.startswith("--")), (name, parameter.opts)
    assert "### `xycd models fetch`" in page


def test_notebook_becomes_a_page(hooks: Any) -> None:
    page = hooks.notebook(ROOT / "docs/notebooks/tour.ipynb")
    assert page.startswith("# Tour")
    assert page.index("[Download the notebook](tour.ipynb)") < page.index("```python")
    assert "```python\nworkers.close()\n```" in page


def test_table_cells_may_hold_bars(hooks: Any) -> None:
    assert hooks.table(("a", "b"), [("x | y", "z")]) == "| a | b |\n| --- | --- |\n| x \\| y | z |"


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Strictly: links between pages and to headings lead somewhere."""
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "reference/names.html", "reference/configuration.html", "notebooks/tour.html"} <= pages
    text = (tmp_path / "site/reference/python.html").read_text(encoding="utf-8")
    assert "etl.results.features.Features" in text
    assert not list((tmp_path / "site").rglob("hooks.py"))
    assert not [page for page in pages if "https://fonts." in (tmp_path / "site" / page).read_text(encoding="utf-8")]
