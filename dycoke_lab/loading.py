"""Models to work with: the embedded specimen, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from dycoke_lab.provenance import ROOT

SPECIMENS = ROOT / "data" / "specimen"


def specimen_seeds() -> list[int]:
    """The seeds of the trained specimens that lie in data/specimen."""
    return sorted(int(path.parent.name.removeprefix("seed-")) for path in SPECIMENS.glob("seed-*/config.json"))


def load_model(name: str = "specimen", seed: int = 0) -> tuple[Any, Any]:
    """A model in evaluation mode and its processor: "specimen", or a checkpoint folder on this machine.

    seed chooses among the trained specimens. Raises FileNotFoundError for what is not there.
    """
    folder = SPECIMENS / f"seed-{seed}" if name == "specimen" else Path(name)
    if not (folder / "config.json").is_file():
        known = f'"specimen" (seeds {specimen_seeds()})'
        raise FileNotFoundError(f"name={name!r}, seed={seed}: {folder} holds no checkpoint. Known: {known}, or a folder")
    quiet = name == "specimen" and logging.is_progress_bar_enabled()  # 4 MB need no bar
    if quiet:
        logging.disable_progress_bar()
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    finally:
        if quiet:
            logging.enable_progress_bar()
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)
