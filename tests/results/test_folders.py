"""Output folders: nothing is overwritten."""

from __future__ import annotations

import json

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from dycoke_lab.results import folders


def test_keep_never_overwrites_a_result(tmp_path):
    table = pd.DataFrame({"a": [1]})
    folders.keep(tmp_path, "table", table)
    again = folders.keep(tmp_path, "table", table * 2)
    assert again.name == "table-2.csv" and pd.read_csv(tmp_path / "table.csv").equals(table)


def test_keep_saves_figures_and_images(tmp_path):
    for name, result in (("figure", Figure(figsize=(1, 1))), ("image", Image.new("RGB", (4, 2)))):
        with Image.open(folders.keep(tmp_path, name, result)) as image:
            assert image.format == "PNG"


def test_new_folders_are_new_and_say_how_they_were_made(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "RESULTS", tmp_path)
    first, second, third = (folders.new_folder("study") for _ in range(3))
    assert len({first, second, third}) == 3 and all(
        folder.parent == tmp_path for folder in (first, second, third)
    )
    assert "commit" in json.loads((second / "provenance.json").read_text())


def test_open_folder_takes_the_one_it_is_given_or_a_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "RESULTS", tmp_path)
    assert folders.open_folder("somewhere").name == "somewhere"
    assert folders.open_folder(None).is_dir() and not list(tmp_path.iterdir())
