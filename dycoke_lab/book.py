"""`make study`: execute the notebooks, and bind them into one page."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from nbconvert import HTMLExporter

from dycoke_lab.provenance import ROOT, provenance
from dycoke_lab.results import new_folder
from dycoke_lab.tables import METHOD_NAMES

NOTEBOOKS = ROOT / "notebooks"


def make_study(videos: int, folder: Path | None = None) -> Path:
    """Execute all notebooks, write figures, tables and labbook.html into a new folder, print the headline table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the kernels: a specimen is too small for threads to help
    folder = folder or new_folder("study")
    print(f"Results go to {folder}")
    executed = []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        print(f"{path.stem.replace('_', ' ')}", flush=True)
        executed.append(execute(path, folder, videos))
    (folder / "labbook.html").write_text(bind(executed))
    print("\nAccuracy in %, with 95 % intervals over videos and specimens:\n")
    with pd.option_context("display.width", 200, "display.max_columns", None, "display.max_rows", None):
        table = pd.read_csv(folder / "04-headline.csv").fillna("")
        print(table.assign(method=table["method"].map(METHOD_NAMES)).to_string(index=False))
    print(f"\nThis run: {folder}\nLab book: {folder / 'labbook.html'}")
    return folder


def execute(path: Path, folder: Path, videos: int) -> Path:
    """Run one notebook with its results going to `folder`, and leave the executed copy there."""
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    out = folder / "notebooks" / path.name
    parameters = {"results": str(folder)} | ({"videos": videos} if "videos" in papermill.inspect_notebook(str(path)) else {})
    quiet = ["--IPKernelApp.log_level=ERROR"]  # no word about how a kernel on this machine is reached
    papermill.execute_notebook(
        str(path), str(out), parameters, kernel_name="python3", cwd=str(NOTEBOOKS), extra_arguments=quiet,
        store_widget_state=False,  # pictures of megabytes that a page without a kernel cannot move
    )  # fmt: skip
    return out


def bind(notebooks: list[Path]) -> str:
    """One HTML page of several executed notebooks; it needs nothing from the network."""
    about = provenance()
    book = nbformat.v4.new_notebook()
    book.cells.append(nbformat.v4.new_markdown_cell(
        f"# dycoke_lab: lab book\n\n`{about['command']}`, commit `{about['commit']}`, {about['time']}, "
        f"{about['hardware']['cpu']}, torch {about['packages']['torch']}, transformers {about['packages']['transformers']}"
    ))  # fmt: skip
    for path in notebooks:
        book.cells += nbformat.read(path, 4).cells
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"  # two notebooks may use the same
        for output in cell.get("outputs", []):  # an instrument needs a kernel: here its text says so
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    page: str = exporter.from_notebook_node(book)[0]
    return re.sub(r'<script src="">\s*</script>', "", page)
