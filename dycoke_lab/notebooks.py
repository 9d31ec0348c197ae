"""Execute the notebooks (`make study`), and join them into one page."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from nbconvert import HTMLExporter

from dycoke_lab.evaluation.metrics import headline_text
from dycoke_lab.results.files import replace_text
from dycoke_lab.results.folders import ROOT, new_folder
from dycoke_lab.results.provenance import provenance
from dycoke_lab.results.rows import RowStore

NOTEBOOKS = ROOT / "notebooks"


def make_study(videos: int, folder: Path | None = None) -> Path:
    """Execute all notebooks, write figures, tables and labbook.html into a folder (None: a new one), and
    print the headline table. In the folder of a study that was interrupted, finished notebooks are not
    executed again.

    Raises FileNotFoundError outside a checkout, which alone has the notebooks.
    """
    paths = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"{NOTEBOOKS} holds no notebooks: run this in a checkout of the repository")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the kernels: a specimen is too small for more threads
    folder = folder or new_folder("study")
    print(f"Results go to {folder}")
    with RowStore(folder, videos=videos) as store:
        done = {row["notebook"] for row in store.rows()}
        begun = store.begin(notebooks=len(paths) - len(done)) > 0
        for path in paths:
            print(path.stem.replace("_", " "), flush=True)
            if path.name in done:
                continue
            for left in folder.glob(f"{path.stem.partition('_')[0]}-*") if begun else ():
                if left.is_file():  # of this notebook, when it was interrupted; a folder's run continues
                    left.unlink()
            execute(path, folder, videos)
            store.append([{"notebook": path.name}])
        replace_text(folder / "labbook.html", join([folder / "notebooks" / path.name for path in paths]))
    table = pd.read_csv(folder / "04a-headline.csv")
    print("\nIn %: words right [95 % over videos, specimens], exact answers, words by scene (sc.):\n")
    print(headline_text(table))
    print(f"\nThis run: {folder}\nLab book: {folder / 'labbook.html'}")
    return folder


def execute(path: Path, folder: Path, videos: int) -> Path:
    """Run one notebook with `folder` for its results, and leave the executed copy there, under its own
    name when it has come to its end."""
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    out = folder / "notebooks" / path.name
    running = out.with_name(f"unfinished-{path.name}")
    parameters: dict[str, str | int] = {"results": str(folder)}
    if "videos" in papermill.inspect_notebook(str(path)):
        parameters["videos"] = videos
    papermill.execute_notebook(
        str(path),
        str(running),
        parameters,
        kernel_name="python3",
        cwd=str(NOTEBOOKS),
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no messages about the kernel's connection
        store_widget_state=False,  # megabytes of images that a page without a kernel cannot change
    )
    running.replace(out)
    return out


def join(notebooks: list[Path]) -> str:
    """Return one HTML page of several executed notebooks, which needs nothing from the network."""
    about = provenance()
    book = nbformat.v4.new_notebook()
    versions = ", ".join(f"{name} {about['packages'][name]}" for name in ("torch", "transformers"))
    title = (
        f"# dycoke_lab: lab book\n\n`{about['command']}`, commit `{about['commit']}`, {about['time']}, "
        f"{about['hardware']['cpu']}, {versions}"
    )
    book.cells.append(nbformat.v4.new_markdown_cell(title))
    for path in notebooks:
        book.cells += nbformat.read(path, 4).cells
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"  # two notebooks may have the same ids
        for output in cell.get("outputs", []):  # a widget needs a kernel; on the page, its text says so
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    page: str = exporter.from_notebook_node(book)[0]
    return re.sub(r'<script src="">\s*</script>', "", page)
