"""Every notebook runs from its first to its last cell, quietly, and the lab book holds what they show."""

from __future__ import annotations

import contextlib
import io
import re

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from dycoke_lab.course import check
from dycoke_lab.notebooks import NOTEBOOKS, execute, lab_book, make_study

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
APPENDIX = sorted(NOTEBOOKS.glob("appendix/*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
LOADS = r'<(?:script|img|link|iframe)\b[^>]* (?:src|href)="(?!data:)'  # a file of its own, or the network
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        folder = make_study(videos=4, folder=tmp_path_factory.mktemp("study"))
    return folder, printed.getvalue()


@pytest.mark.notebook
@each_notebook
def test_a_notebook_runs_quietly_and_leaves_figures(study, path):
    folder, _ = study
    cells = nbformat.read(folder / "notebooks" / path.name, 4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    loud = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not loud  # warnings go there
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert list(folder.glob(f"{path.stem.partition('_')[0]}-*.png"))


@pytest.mark.notebook
@pytest.mark.parametrize("path", APPENDIX, ids=lambda path: path.stem)
def test_the_appendix_runs_quietly(path, tmp_path):
    cells = nbformat.read(execute(path, tmp_path, 4), 4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.get("name") == "stderr"]


@each_notebook
def test_a_page_of_the_course_has_what_a_lecturer_expects(path):
    cells = nbformat.read(path, 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    number = path.stem.partition("_")[0]
    assert text.startswith(f"# {number} ") and text.splitlines()[2].startswith("**")  # the question
    for part in ("**You will be able to**", "**Takes**", "**Before this**", "## Exercises", "**In three"):
        assert part in text, part
    assert max(len(source.splitlines()) for source in code) <= 12
    asked = next(n for n, source in enumerate(code) if "Guess(" in source)
    told = next(n for n, source in enumerate(code) if ".answer(" in source)
    assert asked < told
    checks = re.findall(r"check\.(\w+)\(", "\n".join(code))
    assert 2 <= len(set(checks)) <= 4 and all(callable(getattr(check, name)) for name in checks)
    assert 2 <= len(re.findall(r"\((?:easy|medium|hard), \d+ minutes\)", text)) <= len(set(checks))
    assert list((NOTEBOOKS / "solutions").glob(f"{number}_*.py"))


@pytest.mark.data
@pytest.mark.parametrize("path", [*PATHS, *APPENDIX], ids=lambda path: path.stem)
def test_a_committed_notebook_shows_its_results(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "run it, and commit it with what it shows"
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


@pytest.mark.notebook
def test_the_lab_book_is_one_page_without_network(study):
    page = (study[0] / "labbook.html").read_text()
    assert all(nbformat.read(path, 4).cells[0].source.splitlines()[0][2:] in page for path in PATHS)
    assert not re.search(LOADS, page) and page.count("data:image/png") >= len(PATHS)
    places = set(re.findall(r'id="([^"]+)"', page))
    assert not [link for link in re.findall(r'href="#([^"]+)"', page) if link not in places]  # no dead links


@pytest.mark.notebook
def test_the_headline_table_has_all_positions(study):
    table = pd.read_csv(study[0] / "08-headline.csv")
    assert {"method", "retained", "words", "exact", *(f"scene {n}" for n in range(1, 6))} <= set(
        table.columns
    )
    assert table["words"].str.contains(r"\d \[\d").all()


@pytest.mark.notebook
def test_the_study_ends_with_a_table_of_100_columns(study):
    _, printed = study
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:3] == ["K", "P", "method"])
    assert max(map(len, lines[start - 2 : -3])) <= 100
    assert any("dynamic (DyCoke)" in line for line in lines[start:])


@pytest.mark.slow
def test_the_lab_book_is_one_file_with_code_folded_in_the_order_of_notebooks(tmp_path):
    paths = []
    for name in ("b", "a"):
        paths.append(tmp_path / f"{name}.ipynb")
        shown = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "a slider"})
        cells = [
            nbformat.v4.new_markdown_cell(f"# chapter {name}\n\n[a page](../docs/methods.md)"),
            nbformat.v4.new_code_cell("show()", outputs=[shown], execution_count=1),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), paths[-1])
    page = lab_book(paths)
    assert page.rindex("chapter b") < page.rindex("chapter a")  # the first ones are the table of contents
    assert page.count("<details") == page.count("a slider") == 2 and "methods.md" not in page
    assert not re.search(LOADS, page)


def test_make_study_outside_a_checkout_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("dycoke_lab.notebooks.NOTEBOOKS", tmp_path)
    with pytest.raises(FileNotFoundError, match="run this in a checkout"):
        make_study(videos=4, folder=tmp_path / "study")


@pytest.mark.notebook
def test_notebook_09_runs_on_every_family_with_one_line_changed(family, tmp_path):
    """Tiny random models, so only that it runs, and that what it shows is this model's."""
    model = family.model().float()
    model.save_pretrained(tmp_path / "model")
    family.processor().save_pretrained(tmp_path / "model")
    path = next(NOTEBOOKS.glob("09*"))
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    source = "\n".join(cells).replace("%matplotlib inline", "")
    for line, changed in (
        ('model_name = "constructed"', f"model_name = {str(tmp_path / 'model')!r}"),
        ("max_new_tokens = 128", "max_new_tokens = 8"),  # a random model never ends
        ("results = None", f"results = {str(tmp_path)!r}"),
    ):
        assert source.count(line) == 1
        source = source.replace(line, changed)
    space: dict = {}
    exec(source, space)
    plt.close("all")
    assert type(space["model"]) is type(model)
    table = pd.read_csv(tmp_path / "09-settings.csv")
    assert len(table) == 16 and table["active, %"].min() < 10
    drawn = {path.stem for path in tmp_path.glob("09-*.png")}
    assert {"09-steps-by-frames", "09-kept", "09-settings"} <= drawn
