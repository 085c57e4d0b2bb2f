"""The order of the rooms holds: imports go down only, nothing goes in a circle, and no file is too long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import rooms

MODULES_OF_ETL = {"__init__", "errors", "pipeline"}
LONGEST = 400


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return rooms.import_graph()


def test_no_room_imports_one_above_it(graph: dict[str, set[str]]) -> None:
    assert rooms.upward_imports(graph) == []


def test_no_imports_go_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert rooms.circle(graph) == []


def test_planted_faults_are_found(graph: dict[str, set[str]]) -> None:
    assert "etl.cli.app" in graph["etl.cli.__main__"]
    up = graph | {"etl.stages.merge": graph["etl.stages.merge"] | {"etl.cli.app"}}
    assert rooms.upward_imports(up) == ["etl.stages.merge -> etl.cli.app"]
    beside = graph | {"schemas.errors": {"schemas.keys"}, "schemas.keys": {"schemas.errors"}}
    assert rooms.upward_imports(beside) == []
    assert set(rooms.circle(beside)) == {"schemas.errors", "schemas.keys"}


def test_every_room_is_in_the_order() -> None:
    etl = rooms.ROOT / "etl"
    assert {path.stem for path in etl.glob("*.py")} == MODULES_OF_ETL
    found = {f"etl.{path.parent.name}" for path in etl.glob("*/__init__.py")}
    assert found <= set(rooms.ROOMS)


def test_the_picture_shows_the_code_as_it_is(graph: dict[str, set[str]]) -> None:
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw(graph), "run: make rooms"


def test_no_file_is_too_long() -> None:
    files = [path for package in rooms.PACKAGES for path in (rooms.ROOT / package).rglob("*.py")]
    files += (rooms.ROOT / "tests").rglob("*.py")
    long = {str(path.relative_to(rooms.ROOT)): lines for path in files if (lines := count_lines(path)) > LONGEST}
    assert long == {}


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
