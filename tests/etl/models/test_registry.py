from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etl.errors import ConfigError, ModelError
from etl.models import registry
from etl.models.base import Description
from etl.models.embedded.named import EmbeddedSet


class Echo:
    """Stands for a user's own set."""

    def __init__(self, level: int = 1) -> None:
        self.level = level


class Described(Echo):
    """One that says what it is before it is built."""

    @classmethod
    def describe_set(cls, level: int = 1) -> Description:
        return Description({"level": level}, (level, 0))


NUMBER = 3
HERE = __name__


def test_embedded_is_built_with_its_options(embedded_weights):
    models = registry.build("embedded", cache=embedded_weights, tiles="never")
    assert models.identity["parameters"]["tiles"] == "never"
    registry.check("embedded", cache=embedded_weights)


def test_own_sets_by_module_and_factory():
    assert registry.build(f"{HERE}:Echo", level=5).level == 5  # type: ignore[attr-defined]
    registry.check(f"{HERE}:Echo")


def test_own_sets_may_describe_themselves():
    assert registry.describe(f"{HERE}:Described", level=5) == Description({"level": 5}, (5, 0))
    assert registry.describe(f"{HERE}:Echo", level=5) is None
    with pytest.raises(ConfigError, match="depth"):
        registry.describe(f"{HERE}:Described", depth=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("embeded", {}, "Did you mean 'embedded'"),
        ("aug-lift", {}, "Did you mean 'auglift'"),
        ("embedded", {"threds": 2}, "Did you mean 'threads'"),
        ("embedded", {"tiles": "sometimes"}, "'always'"),
        ("nowhere.at_all:build", {}, "nowhere"),
        (f"{HERE}:Nobody", {}, "Nobody"),
        (f"{HERE}:NUMBER", {}, "can't be called"),
        (f"{HERE}:Echo", {"depth": 2}, "depth"),
        (":build", {}, "module:factory"),
    ],
)
def test_what_cannot_be_built_is_named_before_anything_runs(name, options, message):
    with pytest.raises(ConfigError, match=message):
        registry.check(name, **options)
    with pytest.raises(ConfigError, match=message):
        registry.build(name, **options)


def test_check_asks_for_the_files(tmp_path):
    with pytest.raises(ModelError, match="xycd models fetch"):
        registry.check("embedded", cache=tmp_path)
    with pytest.raises(ModelError, match="xycd models fetch"):
        registry.build("embedded", cache=tmp_path)


def test_fetch_fills_a_cache_from_a_folder(tmp_path, embedded_weights):
    paths = registry.fetch("embedded", cache=tmp_path, source=embedded_weights)
    assert [path.name for path in paths] == list(EmbeddedSet.files)
    registry.check("embedded", cache=tmp_path)
    with pytest.raises(ConfigError, match="embedded"):
        registry.fetch("embeddd")


def test_table_says_what_is_there(tmp_path, embedded_weights):
    table = registry.table(tmp_path).set_index("name")
    assert table.loc["embedded", "files"] == "2 of 2 missing"
    assert registry.table(embedded_weights).set_index("name").loc["embedded", "files"] == "present"
    assert list(table.index) == list(registry.SETS)
    assert (table["licence"] != "").all()
    assert (table["description"] != "").all()


def test_importing_the_registry_imports_no_framework():
    code = (
        "import sys; import etl.models.registry; heavy = {'torch', 'cv2', 'ai_edge_litert', 'pandas'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
