"""What mkdocs asks when it builds the site: pages made of the code itself, so that they can't disagree with it.

A template reference/<name>.md.in becomes the page reference/<name>.md: names in @ are replaced by what the pydantic
models, the schemas and the command line say. notebooks/<name>.ipynb becomes notebooks/<name>.md.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from typer.cli import get_docs_for_click
from typer.main import get_command

from etl.cli.app import app
from etl.config import Config
from etl.models.auglift.settings import AugliftSettings
from schemas import annotation, features, xycd
from schemas.skeletons import COCO_17, COCO_TO_H36M, H36M_17

HERE = Path(__file__).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    parts = {"configuration": configuration(), "names": names(), "commands": {"verbs": verbs()}}
    pages = {f"reference/{name}.md": fill(HERE / "reference" / f"{name}.md.in", parts[name]) for name in parts}
    for path in sorted((HERE / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook(path)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def fill(template: Path, parts: Mapping[str, str]) -> str:
    """A template's text with its parts in place; all of them, and no others."""
    text = template.read_text(encoding="utf-8")
    wanted = re.findall(r"@(\w+)@", text)
    same(wanted, parts, template.name)
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], text)


def same(found: Iterable[str], wanted: Iterable[str], where: str) -> None:
    """Stop the build where two sets of names differ."""
    if difference := set(found) ^ set(wanted):
        raise PluginError(f"{where} has each of the names of the code, and no other: {sorted(difference)}")


def configuration() -> dict[str, str]:
    """Every key of the configuration, section by section."""
    return {
        "keys": "\n\n".join(sections(Config)),
        "auglift": "\n\n".join(sections(AugliftSettings, "models.options")),
    }


def sections(model: type[BaseModel], name: str = "") -> Iterator[str]:
    """A heading and a table for a model, and for each model in it."""
    schema = model.model_json_schema()
    waiting: list[tuple[str, Mapping[str, Any]]] = [(name, schema)]
    while waiting:
        name, section = waiting.pop(0)
        rows, inner = [], []
        for key, value in section["properties"].items():
            path = f"{name}.{key}" if name else key
            if (below := section_of(value, schema)) is not None:
                inner.append((path, below))
                continue
            default = "**required**" if key in section.get("required", ()) else f"`{_toml(value.get('default'))}`"
            rows.append((f"`{key}`", type_of(value), default, value.get("description", "")))
        waiting = inner + waiting
        if rows:
            title = f"## `[{name}]`" if name else "## At the top of the file"
            about = section.get("description", "").split("\n\n")[0]
            yield f"{title}\n\n{about}\n\n" + table(("key", "values", "default", "meaning"), rows)


def section_of(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section that a key holds, if it holds one."""
    for choice in (value, *value.get("anyOf", ())):
        if "$ref" in choice:
            found: Mapping[str, Any] = schema["$defs"][choice["$ref"].rpartition("/")[2]]
            return found
    return None


def type_of(value: Mapping[str, Any]) -> str:
    """Type and bounds of a key, in words."""
    if "anyOf" in value:
        return " or ".join(type_of(choice) for choice in value["anyOf"] if choice.get("type") != "null")
    if "enum" in value or "const" in value:
        return ", ".join(f"`{_toml(choice)}`" for choice in value.get("enum", (value.get("const"),)))
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])}: each {type_of(value['prefixItems'][0])}"
    if value["type"] == "array":
        each = type_of(value["items"])
        return f"list of {each}s" if each.endswith("number") else f"list of {each}"
    kinds = {"string": "text", "integer": "whole number", "boolean": "`true`, `false`", "object": "table"}
    kind = "path" if value.get("format") == "path" else kinds.get(value["type"], value["type"])
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join([kind, *(f"{sign} {value[name]:,}" for name, sign in signs.items() if name in value)])


def _toml(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def names() -> dict[str, str]:
    """Every joint, feature, status and key, from the schemas; definitions from definitions.toml."""
    known = tomllib.loads((HERE / "definitions.toml").read_text(encoding="utf-8"))
    units = features.FEATURE_UNITS
    statuses = {status.name.lower(): status.value for status in features.Status}
    same(known["features"], [*features.BASIC_FEATURES, *features.STATISTICS], "definitions.toml")
    same(known["status"], statuses, "definitions.toml")
    same(known["groups"], {key.group for key in xycd.KEYS.values()}, "definitions.toml")
    joints = [
        (str(number), f"`{joint}`", ", ".join(COCO_17.joints[i] for i in sources))
        for number, (joint, sources) in enumerate(zip(H36M_17.joints, COCO_TO_H36M, strict=True))
    ]
    basic = [(f"`{name}`", units[name], known["features"][name]) for name in features.BASIC_FEATURES]
    statistics = [(f"`{name}`", units[name], known["features"][name]) for name in features.STATISTICS]
    keys = [
        (f"`{name}`", f"({', '.join(map(str, key.shape))})", key.dtype, key.unit, _words(key.group), key.text)
        for name, key in xycd.KEYS.items()
    ]
    return {
        "joints": table(("", "joint", "mean of the COCO joints"), joints),
        "basic": table(("feature", "unit", "definition"), basic),
        "statistics": table(("feature", "unit", "definition"), statistics),
        "status": table(
            ("status", "flag", "meaning"), [(f"`{s}`", str(n), known["status"][s]) for s, n in statuses.items()]
        ),
        "keys": table(("key", "shape", "dtype", "unit", "there", "holds"), keys),
        "groups": table(("there", "when"), [(_words(name), text) for name, text in known["groups"].items()]),
        "summary": ", ".join(f"`{name}`" for name in xycd.SUMMARY_COLUMNS),
        "vector": ", ".join(f"`{name}`" for name in xycd.VECTOR_COLUMNS),
        "annotation": _table_in(annotation.__doc__),
        "feature_file": _table_in(features.__doc__),
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _table_in(docstring: str | None) -> str:
    return "\n".join(line for line in (docstring or "").splitlines() if line.startswith("|"))


def verbs() -> str:
    """Every verb with its options, as the command line describes itself."""
    group: Any = get_command(app)
    context = group.context_class(group, info_name="xycd")
    texts = [
        get_docs_for_click(obj=verb, ctx=context, indent=1, name=name, call_prefix="xycd")
        for name, verb in group.commands.items()
    ]
    return "\n\n".join(text.strip() for text in texts)


def notebook(path: Path) -> str:
    """A notebook's text and code; below its title, a link to it."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    title, rest = parts[0].split("\n", 1) if "\n" in parts[0] else (parts[0], "")
    return "\n\n".join([title, f"[Download the notebook]({path.name})", rest.strip(), *parts[1:]]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
