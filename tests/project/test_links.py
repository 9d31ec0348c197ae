"""Every link between pages and notebooks leads to a file, and to a heading, that is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dycoke_lab.results.folders import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")),
    *sorted((ROOT / "data" / "results").glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if "/." not in str(path)),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """A page without its blocks of code; of a notebook, what is not code."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub and the site call a page's headings."""
    headings = re.findall(r"^#+ +(.*?) *$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(text_of(page)):
        target, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", target):  # another site's
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists() and there.is_relative_to(ROOT), f"{page.name} links to {link}"
        if heading:
            assert heading in anchors(there), f"{page.name} links to {link}, a heading that is not there"


def test_links_are_found():
    """So that the test above cannot pass by finding none."""
    assert sum(len(LINK.findall(text_of(page))) for page in PAGES) > 20
    assert "a-method" in anchors(ROOT / "CONTRIBUTING.md")
