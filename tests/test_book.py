"""Every notebook runs from its first to its last cell, quietly, and the lab book holds what they show."""

from __future__ import annotations

import nbformat
import pandas as pd
import pytest

from dycoke_lab import results
from dycoke_lab.book import NOTEBOOKS, bind, make_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(videos=4, folder=tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_quietly_and_leave_figures(study, path):
    cells = nbformat.read(study / "notebooks" / path.name, 4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    loud = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not loud  # warnings go there
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert list(study.glob(f"{path.name[:2]}-*.png"))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_show_their_results(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "run it, and commit it with what it shows"
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


def test_the_lab_book_is_one_page_without_network(study):
    page = (study / "labbook.html").read_text()
    assert all(f'<h1 id="0{number}-' in page for number in range(7))
    assert "<script src=" not in page and page.count("data:image/png") >= 7


def test_the_headline_table_has_all_positions(study):
    table = pd.read_csv(study / "04-headline.csv")
    assert {"method", "retained", "words", "exact", *(f"scene {n}" for n in range(1, 6))} <= set(table.columns)
    assert table["words"].str.contains(r"\d \[\d").all()


def test_results_are_never_overwritten(tmp_path):
    table = pd.DataFrame({"a": [1]})
    results.keep(tmp_path, "table", table)
    again = results.keep(tmp_path, "table", table * 2)
    assert again.name == "table-2.csv" and pd.read_csv(tmp_path / "table.csv").equals(table)


def test_bind_keeps_the_order(tmp_path):
    paths = []
    for name in ("b", "a"):
        paths.append(tmp_path / f"{name}.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# chapter {name}")]), paths[-1])
    page = bind(paths)
    assert page.index("chapter b") < page.index("chapter a")
