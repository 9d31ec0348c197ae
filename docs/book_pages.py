"""What the pages need beyond Sphinx: code is folded, docstrings in plain words are laid out."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any

TITLED = re.compile(r"(^|[.;:] )(\w+(?:, \w+)*): ")


ELSEWHERE = re.compile(r"\[([^\]]*)\]\((?:\.\.|appendix)/[^)]*\)")
SECTION = re.compile(r"```{toctree}\n.*?\n/?(\S*)\n```\n", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)


def prepare(app: Any, name: str, source: list[str]) -> None:
    """Change the text of a page before it is read."""
    if str(app.env.doc2path(name)).endswith(".ipynb"):
        source[0] = json.dumps(prepared(json.loads(source[0]), app.builder.name == "singlehtml"))
        if "/solutions/" in name:
            app.env.metadata[name]["orphan"] = True
    elif name == app.config.root_doc:  # Sphinx warns of a section of pages that there are none of
        source[0] = SECTION.sub(lambda section: section[0] if has_pages(app, section[1]) else "", source[0])


def has_pages(app: Any, pattern: str) -> bool:
    return not pattern.endswith("*") or any(app.srcdir.glob(f"{pattern}.*"))


def prepared(notebook: dict[str, Any], alone: bool) -> dict[str, Any]:
    """Fold each cell's code. Figures are called by the heading they stand under, for who can't see them. In
    the lab book, which is alone, links to the repository's pages and to the appendix become text."""
    heading = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"].setdefault("tags", []).append("hide-input")
            cell["metadata"]["mystnb"] = {"image": {"alt": f"Figure: {heading}"}}
        else:
            text = "".join(cell["source"])
            heading = (HEADING.findall(text) or [heading])[-1]
            cell["source"] = ELSEWHERE.sub(r"\1", text) if alone else text
    return notebook


def first_page(app: Any) -> list[tuple[str, dict[str, Any], str]]:
    """Return index.html, which leads to the contents: they lie in docs, as in the repository."""
    return [("index", {}, "to_contents.html")] if app.builder.name == "html" else []


def no_search(app: Any) -> None:
    """One page is searched by the browser."""
    if app.builder.name == "singlehtml":
        parts = ["brand", "scroll-start", "navigation", "scroll-end"]
        app.config.html_sidebars = {"**": [f"sidebar/{part}.html" for part in parts]}


def parameters_of(thing: Any) -> set[str]:
    """Return the names that a docstring may explain: parameters, fields and class attributes."""
    names = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    if inspect.isclass(thing):
        return names | set(getattr(thing, "__annotations__", ()))
    return set(inspect.signature(thing).parameters) if callable(thing) else set()


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool:
    """Leave out the fields of named tuples: the docstring of the tuple explains them."""
    return skipped or str(getattr(thing, "__doc__", "")).startswith("Alias for field number")


def lay_out(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText: what looks like its markup is escaped, indented lines
    continue a paragraph, and each parameter that is explained begins a line of its own."""
    known, out, example = parameters_of(thing), [], False
    for line in lines:
        example = line.startswith(">>>") or (example and bool(line.strip()))
        text = re.sub(r"(`[^`]*`)|([*|\\]|\w_(?=\W|$))", escaped, line.strip())
        if example:
            out.append(line)
        elif text and out and out[-1] and not out[-1].startswith(">>>"):
            out[-1] += f" {text}"  # of the same paragraph
        else:
            out.append(text)
    lines[:] = []
    for line in out:
        found = [m for m in TITLED.finditer(line) if set(m[2].split(", ")) <= known]
        for match in reversed(found):
            start, end = match.start(2), match.end(2)
            line = f"{line[:start].rstrip()}\n\n**{line[start:end]}**{line[end:]}"
        lines += [*line.split("\n"), *([""] if found else [])]


def escaped(match: re.Match[str]) -> str:
    code, mark = match.groups()
    return code or (f"\\{mark}" if len(mark) == 1 else f"{mark[0]}\\_")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", no_search)
    app.connect("source-read", prepare)
    app.connect("html-collect-pages", first_page)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", lay_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
