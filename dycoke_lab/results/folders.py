"""Where data lie, and where a run's figures and tables go: a new folder, so that nothing is overwritten."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from dycoke_lab.results.files import check_folder, replace_text, replacing
from dycoke_lab.results.provenance import IN_CHECKOUT, ROOT, provenance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from PIL.Image import Image

DATA = ROOT / "data" if IN_CHECKOUT else ROOT / "dycoke_lab" / "_data"  # a wheel brings specimens and clips
RESULTS = DATA / "results" if IN_CHECKOUT else Path("runs")
EVIDENCE = RESULTS / "evidence"  # the committed grids: a folder for each kind of specimen, in it seeds
DIAGNOSES = RESULTS / "diagnoses"  # the same, of `diagnose` on validation videos
CONSTRUCTED = EVIDENCE / "constructed"
SWEEP = RESULTS / "sweep" / "constructed"  # the committed grid that thresholds are chosen by
BENCH = RESULTS / "bench"  # committed times and bytes


def new_folder(kind: str) -> Path:
    """Make the folder KIND-YYYYMMDD-HHMMSS with its provenance.json; -2, -3, ... if another has that name."""
    check_folder(RESULTS)
    for folder in _numbered(RESULTS / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # taken, perhaps by another process just now
            continue
    replace_text(folder / "provenance.json", json.dumps(provenance(), indent=1) + "\n")
    return folder


def open_folder(results: str | None) -> Path:
    """Return a notebook's output folder: the one that `make study` gives, or a temporary one."""
    return Path(results or tempfile.mkdtemp(prefix="dycoke_lab-"))


def keep(folder: Path, name: str, result: Figure | Image | pd.DataFrame) -> Path:
    """Save a figure or image as NAME.png, a table as NAME.csv; as NAME-2, -3, ... if a cell is run again."""
    suffix = "csv" if hasattr(result, "to_csv") else "png"  # by their methods: this needs no plotting library
    path = next(path for path in _numbered(folder / f"{name}.{suffix}") if not path.exists())
    save(path, result)
    return path


def save(path: Path, result: Figure | Image | pd.DataFrame, dpi: int = 150) -> None:
    """Write a figure or image as PNG, a table as CSV, as a whole or not at all."""
    with replacing(path) as new:
        if hasattr(result, "to_csv"):
            result.to_csv(new, index=False)
        elif hasattr(result, "savefig"):
            result.savefig(new, dpi=dpi, format="png")
        else:
            result.save(new, "png")


def _numbered(path: Path) -> Iterator[Path]:
    """Yield the path itself, then NAME-2, NAME-3, ..."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
