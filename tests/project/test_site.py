"""`make site`: the whole is built without a warning, loads nothing from elsewhere, and reads on a phone."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys

import nbformat
import pytest

from dycoke_lab.results.folders import ROOT

EXAMPLES = sorted(path for path in (ROOT / "dycoke_lab").rglob("*.py") if ">>> " in path.read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOURCES = ("README.md", "docs/*.md", "docs/*/*.md", "notebooks/*.ipynb", "notebooks/appendix/*.ipynb")
PAGES = [path.relative_to(ROOT).with_suffix("") for kind in SOURCES for path in sorted(ROOT.glob(kind))]
FROM_ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*\bhref=\"?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//|@import"
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_run(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


def test_no_line_of_a_page_begins_with_a_percent_sign():
    """The site leaves such a line out: to MyST it is a comment."""
    for path in [path for kind in (*SOURCES, "data/**/*.md", "*.md") for path in ROOT.glob(kind)]:
        text = path.read_text()
        if path.suffix == ".ipynb":
            cells = nbformat.reads(text, 4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        assert not re.search(r"^ {0,3}%", text, re.MULTILINE), path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as `make site` makes it, but in another folder."""
    (recipe,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line]
    folder = tmp_path_factory.mktemp("build")
    recipe = recipe.replace("$(BIN)/python", sys.executable).replace("build/", f"{folder}/")
    done = subprocess.run(recipe.split(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # also of a warning, such as a link that leads nowhere
    return folder / "site"


@pytest.mark.slow
def test_the_site_has_every_notebook_folded_and_loads_nothing_from_elsewhere(site):
    contents = (site / "docs" / "index.html").read_text()
    for path in NOTEBOOKS:
        assert f"../notebooks/{path.stem}.html" in contents
        page = (site / "notebooks" / f"{path.stem}.html").read_text()
        assert page.count("<details") >= 2 and "<img " in page and "widget-view" not in page
    loading = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(loading) > 20
    for path in loading:
        assert not FROM_ELSEWHERE.search(path.read_text()), path
    assert (site / "index.html").exists()
    assert 'id="term-drift"' in (site / "docs" / "glossary.html").read_text()
    assert 'id="dycoke_lab.temporal_merge"' in (site / "docs" / "api" / "dycoke_lab.html").read_text()


def right(element):
    box = element.bounding_box()
    return box["x"] + box["width"]


def middle(element):
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_site_works_from_disk_at_two_widths(site, width, height):
    from playwright.sync_api import sync_playwright

    kept = ROOT / "build" / "browser"
    kept.mkdir(parents=True, exist_ok=True)
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("request", lambda request: asked.append(request.url))

        def scrolls():
            return page.evaluate("document.documentElement.scrollWidth")

        for name in map(str, PAGES):
            page.goto(f"file://{site}/{name}.html")
            assert scrolls() <= width, name
            told = page.query_selector_all(".told td")  # a table of sentences
            assert all(right(cell) <= width for cell in told), name
            assert told or name not in ("docs/methods", "docs/teaching/lecture")
            if width < 500:
                folded = page.query_selector_all(".cell summary")
                assert all(it.bounding_box()["height"] >= 24 for it in folded), name  # for fingers
            for figure in page.query_selector_all("article img")[:1]:
                figure.evaluate("it => it.scrollIntoView({behavior: 'instant', block: 'center'})")
                x, y = middle(figure)
                page.mouse.click(x, y)
                assert figure.bounding_box()["width"] > 800 and scrolls() <= width, name
                assert middle(figure) == pytest.approx((x, y), abs=3), name  # it grows around the finger
                page.mouse.click(x, y)
            page.screenshot(path=str(kept / f"site-{width}-{name.replace('/', '-')}.png"))
        page.goto(f"file://{site}/notebooks/09_footage_and_your_video.html")
        assert page.inner_text(".columns").splitlines()[0].split() == ["full", "cache", "compressed"]
        page.goto(f"file://{site}/search.html?q=drift")
        page.wait_for_selector("#search-results a")
        assert "Glossary" in page.inner_text("#search-results")
        browser.close()
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
