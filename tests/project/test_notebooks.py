"""Every notebook runs from its first to its last cell, quietly, and the lab book holds what they show."""

from __future__ import annotations

import matplotlib.pyplot as plt
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
    assert all(f'<h1 id="0{number}-' in page for number in range(8))
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


def test_notebook_07_runs_on_every_family_with_one_line_changed(family, tmp_path):
    """Tiny random models, so only that it runs, and that what it shows is this model's."""
    model = family.model().float()
    model.save_pretrained(tmp_path / "model")
    family.processor().save_pretrained(tmp_path / "model")
    cells = [cell.source for cell in nbformat.read(next(NOTEBOOKS.glob("07*")), 4).cells if cell.cell_type == "code"]
    source = "\n".join(cells).replace("%matplotlib inline", "")
    for line, changed in (
        ('model_name = "specimen"', f"model_name = {str(tmp_path / 'model')!r}"),
        ("max_new_tokens = 128", "max_new_tokens = 8"),  # a random model never ends
        ("results = None", f"results = {str(tmp_path)!r}"),
    ):
        assert source.count(line) == 1
        source = source.replace(line, changed)
    space: dict = {}
    exec(source, space)
    plt.close("all")
    assert type(space["model"]) is type(model)
    table = pd.read_csv(tmp_path / "07-settings.csv")
    assert len(table) == 16 and table["attended to, %"].min() < 10
    assert {path.stem for path in tmp_path.glob("07-*.png")} == {"07-steps-by-frames", "07-kept", "07-settings"}
