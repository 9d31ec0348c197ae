"""Where a run leaves its figures and tables: a folder of its own, never one that is there already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL.Image import Image as Picture

from dycoke_lab.provenance import ROOT, provenance

RESULTS = ROOT / "data" / "results"
EVIDENCE = RESULTS / "evidence"  # the committed grid: 3 seeds x 512 videos
SWEEP = RESULTS / "sweep"  # the committed grid that thresholds are chosen by


def new_folder(kind: str) -> Path:
    """data/results/KIND-YYYYMMDD-HHMMSS, made anew, with provenance.json; -2, -3, ... where another began in that second."""
    for folder in _names(RESULTS / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # taken, perhaps by another process just now
            continue
    (folder / "provenance.json").write_text(json.dumps(provenance(), indent=1) + "\n")
    return folder


def open_folder(results: str | None) -> Path:
    """A notebook's folder: the one that `make study` gives, or a new one when it is run by hand."""
    return Path(results) if results else new_folder("notebook")


def keep(folder: Path, name: str, result: Figure | Picture | pd.DataFrame) -> Path:
    """Save a figure or picture as NAME.png or a table as NAME.csv; as NAME-2, NAME-3, ... where a cell is run again."""
    suffix = "csv" if isinstance(result, pd.DataFrame) else "png"
    path = next(path for path in _names(folder / f"{name}.{suffix}") if not path.exists())
    if isinstance(result, Figure):
        result.savefig(path, dpi=150)
    elif isinstance(result, Picture):
        result.save(path)
    else:
        result.to_csv(path, index=False)
    return path


def _names(path: Path) -> Iterator[Path]:
    """The path itself, then NAME-2, NAME-3, ..."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
