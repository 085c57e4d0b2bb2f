"""The rooms of the code and their order, and the picture of it: `python -m tests.rooms` draws docs/images/rooms.svg."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
PACKAGES = ("xycd", "etl", "cluster", "schemas")

# A room imports from itself and from the rooms below it. This is the only place where the order is written.
ROOMS = (
    "xycd",
    "etl.cli",
    "etl.demo",
    "etl.pipeline",
    "etl.execution",
    "etl.report",
    "etl.results",
    "etl.alignment",
    "etl.stages",
    "etl.stages.files",
    "etl.stages.blocks",
    "etl.models",
    "etl.datasets",
    "etl.store",
    "etl.media",
    "etl.config",
    "etl.errors",
    "etl",
    "cluster",
    "schemas",
)


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module imports, those inside functions included, type checking left out."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def room_of(module: str) -> str:
    """Return the innermost room that holds a module."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def upward_imports(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the imports of a room above, as "module -> module"."""
    place = {room: number for number, room in enumerate(ROOMS)}
    return sorted(
        f"{module} -> {imported}"
        for module, targets in graph.items()
        for imported in targets
        if place[room_of(imported)] < place[room_of(module)]
    )


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the modules of one import circle; empty where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def arrows(graph: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
    """Return the pairs of different rooms of which the first imports the second."""
    pairs = {(room_of(module), room_of(imported)) for module, targets in graph.items() for imported in targets}
    return {(room, other) for room, other in pairs if room != other}


def summary(room: str) -> str:
    """Return the first line of a room's docstring."""
    path = ROOT / room.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def draw(graph: Mapping[str, Iterable[str]]) -> str:
    """Draw the rooms from top to bottom as SVG, with a dot in the column of each room that a room imports.

    An import of a room above would show as a red dot left of the diagonal.
    """
    row, left, cell = 26, 190, 18
    place = {room: number for number, room in enumerate(ROOMS)}
    wide, high = left + cell * len(ROOMS) + 560, row * (len(ROOMS) + 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="13">',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
        '<text x="10" y="17" fill="#666">room</text>',
        f'<text x="{left}" y="17" fill="#666">■ the room itself   ● a room below that it imports</text>',
    ]
    for room, number in place.items():
        y, depth = row * (number + 1), room.count(".")
        x = left + cell * number
        lines += [
            f'<rect x="4" y="{y}" width="{wide - 8}" height="{row - 3}" rx="4" fill="#eef3f8"/>',
            f'<text x="{10 + 12 * depth}" y="{y + 16}" font-weight="bold">{escape(room)}</text>',
            f'<rect x="{x + 3}" y="{y + 5}" width="{cell - 6}" height="{row - 13}" fill="#c3d1de"/>',
            f'<text x="{left + cell * len(ROOMS) + 14}" y="{y + 16}" fill="#333">{escape(summary(room))}</text>',
        ]
    for room, other in sorted(arrows(graph)):
        x, y = left + cell * place[other] + cell // 2, row * (place[room] + 1) + row // 2 - 2
        colour = "#2a6fb0" if place[other] > place[room] else "#d02020"
        lines.append(f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"><title>{room} → {other}</title></circle>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(import_graph()), encoding="utf-8")
