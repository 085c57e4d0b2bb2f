from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from etl.config import Config, load, parse_assignments
from etl.errors import ConfigError

TEXT = """
workspace = "work"
[datasets.h36m]
root = "raw"
hz = 50
subjects = ["S1"]
[estimate]
batch = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "xycd.toml"
    path.write_text(TEXT)
    return path


def test_defaults_alone_are_valid() -> None:
    assert load() == Config()


def test_paths_in_a_file_are_relative_to_it(file: Path, tmp_path: Path) -> None:
    config = load(file)
    assert config.workspace == tmp_path / "work"
    assert config.datasets.selected()["h36m"].root == tmp_path / "raw"


def test_options_win_over_the_file_and_none_means_absent(file: Path) -> None:
    config = load(file, {"workspace": "/elsewhere", "estimate": {"batch": None}}, {"estimate": {"batch": 9}})
    assert config.workspace == Path("/elsewhere")
    assert config.estimate.batch == 9
    assert config.datasets.h36m is not None
    assert config.datasets.h36m.hz == 50


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workspac": "x"}, "unknown key 'workspac', did you mean 'workspace'"),
        ({"datasets": {"h63m": {"root": "x"}}}, "'datasets.h63m', did you mean 'h36m'"),
        ({"datasets": {"h36m": {"root": "x", "hertz": 3}}}, r"'datasets.h36m.hertz'.*valid here|did you mean 'hz'"),
        ({"estimate": {"descriptor": {"radius_mim": 3}}}, "did you mean 'radius_min'"),
        ({"estimate": {"batch": 0}}, "estimate.batch.*greater than or equal to 1.*got 0"),
        ({"datasets": {"h36m": {"root": "x", "hz": 30}}}, "datasets.h36m.hz.*50, 25 or 10"),
        ({"cluster": {"kind": "slrum"}}, "cluster.kind"),
    ],
)
def test_errors_name_the_key_and_the_nearest(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(None, values)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load(None, {"workspac": "x", "estimate": {"batch": 0}})
    assert "workspac" in error.value.found
    assert "batch" in error.value.found


def test_only_one_dataset(file: Path) -> None:
    config = load(file, {"datasets": {"folder": {"root": "pics"}}}, only="folder")
    assert list(config.datasets.selected()) == ["folder"]


@pytest.mark.parametrize("values", [{}, {"datasets": {"folder": {"root": "pics"}}}])
def test_only_a_dataset_that_is_absent(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"no section \[datasets.h36m\]"):
        load(None, values, only="h36m")


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "xycd.toml"
    path.write_text("workspace = 'x'\nbatch =\n")
    with pytest.raises(ConfigError, match="line 2"):
        load(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "no.toml")


def test_assignments_are_toml_or_words() -> None:
    values = parse_assignments(
        ["estimate.batch=8", "models.set=embedded", "datasets.h36m.subjects=['S1']", "estimate.person = largest_box"]
    )
    assert values == {
        "estimate": {"batch": 8, "person": "largest_box"},
        "models": {"set": "embedded"},
        "datasets": {"h36m": {"subjects": ["S1"]}},
    }
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments(["estimate.batch"])


def test_content_options_leave_out_filters() -> None:
    config = load(None, {"datasets": {"h36m": {"root": "x", "subjects": ["S1"]}}})
    (settings,) = config.datasets.selected().values()
    assert settings.content_options() == {"hz": 25, "correct_s9_shift": False}
    assert settings.reader_options()["subjects"] == ("S1",)


def keys(model: type[BaseModel], name: str = "") -> Iterator[tuple[str, str | None]]:
    """Every key below a section, and what is said of it; of a section, its docstring."""
    for key, field in model.model_fields.items():
        path = f"{name}.{key}".lstrip(".")
        choices = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
        yield path, field.description or (inner[0].__doc__ if inner else None)
        for section in inner:
            yield from keys(section, path)


def test_every_key_says_what_it_means() -> None:
    said = dict(keys(Config))
    assert {"cluster.slurm.driver.cpus", "datasets.h36m.root", "estimate.descriptor.radius"} <= said.keys()
    assert [path for path, words in said.items() if not (words or "").strip()] == []


def test_embeddings_are_a_section_or_a_switch(tmp_path: Path) -> None:
    def embeddings(*layers: object) -> tuple[bool, bool, tuple[int, int]]:
        found = load(None, *({"estimate": {"embeddings": layer}} for layer in layers)).estimate.embeddings
        return found.enabled, found.keep_maps, found.depth_map

    assert embeddings(True) == (True, False, (8, 8))
    assert embeddings({"keep_maps": True}) == (True, True, (8, 8)), "maps come with the features"
    assert embeddings(True, {"keep_maps": True, "depth_map": [4, 5]}) == (True, True, (4, 5))
    assert embeddings({"keep_maps": True}, True) == (True, True, (8, 8)), "a switch leaves the rest of its section"
    with pytest.raises(ConfigError, match="needs enabled = true"):
        embeddings({"keep_maps": True}, False)
    with pytest.raises(ConfigError, match=r"embeddings\.depth_map"):
        embeddings({"depth_map": [0, 8]})
    with pytest.raises(ConfigError, match="did you mean 'keep_maps'"):
        embeddings({"keep_map": True})
    path = tmp_path / "xycd.toml"
    path.write_text("[estimate]\nembeddings = true\n")
    assert load(path).estimate.embeddings.enabled
