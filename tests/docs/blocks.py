"""Code blocks of Markdown pages, and what the comment before each says about testing.

``<!-- run -->`` runs a block of shell lines; ``<!-- not run: why -->`` leaves a block of Python out, ``<!-- needs:
X -->`` runs it where the package X is there, and ``<!-- file: NAME -->`` writes it into a file instead.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[a-z ]+)(?:: (?P<value>.*?))? -->\n\s*)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    value: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Python runs unless it says no; shell lines don't unless they say yes."""
        return self.mark != "not run" if self.language == "python" else self.language == "sh" and self.mark == "run"

    def commands(self) -> list[list[str]]:
        """Words of its shell lines, comments left out."""
        joined = self.text.replace("\\\n", " ")
        return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, m.start("language")) + 1,
            m["language"],
            m["text"],
            m["mark"] or "",
            m["value"] or "",
        )
        for m in _BLOCK.finditer(text)
    ]


def all_blocks(language: str) -> list[Block]:
    """Blocks of all pages in one language."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]
