"""Links of the Markdown pages lead to files and headings that exist. Addresses outside the repository aren't opened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.M)
MADE = re.compile(r"reference/\w+\.md$|notebooks/\w+\.md$")  # the build makes these pages or their headings
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub and Python-Markdown make them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in HEADING.findall(text))
    return {re.sub(r"[ -]+", "-", heading) for heading in plain}


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if MADE.search(place):
            sources = target, target.with_name(f"{target.name}.in"), target.with_suffix(".ipynb")
            broken += [] if any(source.exists() for source in sources) else [link]
        elif not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](#one-two) [b](#three) [c](other.md) [d](page.md#one-two) [e](https://x.org/y)\n")
    assert broken_links(page, page.read_text()) == ["#three", "other.md"]
