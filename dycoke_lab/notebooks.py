"""Execute the notebooks (`make study`), and make one page of them."""

from __future__ import annotations

import base64
import mimetypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import papermill

from dycoke_lab.evaluation.metrics import headline_text
from dycoke_lab.results.files import replace_text
from dycoke_lab.results.folders import ROOT, new_folder
from dycoke_lab.results.provenance import provenance
from dycoke_lab.results.rows import RowStore

NOTEBOOKS = ROOT / "notebooks"
if missing := [name for name in ("sphinx", "myst_nb", "furo") if find_spec(name) is None]:
    raise ModuleNotFoundError(f"No module named {missing[0]!r}")  # now, not after eight minutes


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
        replace_text(folder / "labbook.html", lab_book([folder / "notebooks" / path.name for path in paths]))
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


def lab_book(notebooks: Sequence[Path]) -> str:
    """Return one HTML page of several executed notebooks, by Sphinx and in the site's style. Style sheets,
    scripts and figures are in the page: it can be handed on, and needs nothing from the network."""
    about = provenance()
    versions = ", ".join(f"{name} {about['packages'][name]}" for name in ("torch", "transformers"))
    run = f"`{about['command']}`, commit `{about['commit']}`, {about['time']}, {about['hardware']['cpu']}, "
    contents = "\n".join(["```{toctree}", *(path.stem for path in notebooks), "```"])
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary, "source"), Path(temporary, "out")
        source.mkdir()
        (source / "index.md").write_text(f"# Lab book\n\n{run}{versions}\n\n{contents}\n")
        for path in notebooks:
            shutil.copy(path, source)
        sphinx = [sys.executable, "-m", "sphinx", "-q", "-b", "singlehtml", "-c", str(ROOT / "docs")]
        settings = ["-D", "root_doc=index", "-D", "include_patterns=*", "-D", "html_title=Lab book"]
        subprocess.run([*sphinx, *settings, str(source), str(out)], check=True)
        return _self_contained(out / "index.html")


def _self_contained(path: Path) -> str:
    """Return a page with the files that it loads written into it."""

    def content(match: re.Match[str]) -> bytes:
        return (path.parent / match["file"].partition("?")[0]).read_bytes()

    def data(match: re.Match[str]) -> str:
        kind = mimetypes.guess_type(match["file"])[0]
        return f'src="data:{kind};base64,{base64.b64encode(content(match)).decode()}"'

    page = re.sub(r'<link rel="(index|search)"[^>]*>', "", path.read_text())
    style = r'<link rel="stylesheet"[^>]* href="(?P<file>[^"]+)"[^>]*>'
    page = re.sub(style, lambda match: f"<style>{content(match).decode()}</style>", page)
    script = r'<script src="(?P<file>[^"]+)"></script>'
    page = re.sub(script, lambda match: f"<script>{content(match).decode()}</script>", page)
    return re.sub(r'src="(?P<file>_[^"]+)"', data, page)
