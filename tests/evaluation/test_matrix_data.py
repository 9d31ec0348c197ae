"""The matrix's committed rows: a corner of them is run again, and what the page says of them is so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dycoke_lab.evaluation import matrix_tables as tables
from dycoke_lab.evaluation.matrix import LAYERS, plan_at
from dycoke_lab.evaluation.matrix_family import SECOND, beside, said
from dycoke_lab.evaluation.matrix_methods import as_markdown, good_and_bad
from dycoke_lab.evaluation.matrix_report import best_three, finding
from dycoke_lab.evaluation.matrix_runs import read_matrix, run_matrix
from dycoke_lab.evaluation.matrix_truth import things_and_background
from dycoke_lab.methods import METHODS, Merger
from dycoke_lab.results.rows import read_rows

pytestmark = pytest.mark.data
PAGE = Path(__file__).parents[2] / "docs" / "which-method.md"
CORNER = ("visionzip", "fastv", "tova")


@pytest.fixture(scope="module")
def matrix():
    return tables.load_matrix()


@pytest.mark.slow
def test_a_corner_comes_out_as_it_is_committed(matrix, tmp_path):
    """One merger, whose knob is solved again, one reducer and one selector at 25 %, on constructed seed 0."""
    folder = tables.MATRIX / "constructed" / "seed-0"
    lines = [line for line in plan_at(0.25) if [part.says[0] for part in line.parts] in [[n] for n in CORNER]]
    lines = [line for line in lines if not line.parts[0].fields]
    fields = {row["line"]: row["fields"] for row in read_rows(folder) if "fields" in row}
    known = [
        {"line": line.key, "fields": fields[line.key]}
        for line in lines if not issubclass(METHODS[line.parts[0].method], Merger)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    about = json.loads((folder / "provenance.json").read_text())
    run_matrix(
        "constructed",
        0,
        LAYERS["constructed"],
        lines,
        about["videos"],
        tmp_path,
        ["describe"],
        progress=False,
    )
    again = read_matrix(tmp_path).set_index(["line", "video"]).sort_index()
    rows = matrix.query("specimen == 'constructed' and seed == 0 and question == 'describe'")
    before = rows.set_index(["line", "video"]).loc[again.index]
    assert len(again) == (len(CORNER) + 1) * about["videos"]
    assert (again["fields"] == before["fields"]).all()
    assert (again["right"] == before["right"]).mean() > 0.99  # another CPU may round otherwise
    assert (again[tables.KEPT] - before[tables.KEPT]).abs().max().max() < 0.01


def test_the_page_has_what_the_rows_say(matrix):
    page, table = PAGE.read_text(), tables.means(matrix)
    assert as_markdown(good_and_bad(table)) in page and as_markdown(best_three(table)) in page


def test_the_page_has_what_the_rows_of_a_second_family_say(matrix):
    text = said(beside(matrix, tables.load_matrix(SECOND)))
    assert text in " ".join(PAGE.read_text().split())


def test_the_readme_has_what_the_rows_say(matrix):
    assert finding(matrix, tables.load_matrix(SECOND)) in " ".join(
        (PAGE.parents[1] / "README.md").read_text().split()
    )


def test_no_line_changes_nothing_with_a_quarter_of_the_tokens(matrix):
    """But for hindsight, which knows the answer, and for choices at each step on constructed specimens, which
    were built so that these lose nothing."""
    anew = ("dynamic at", "layer_vote at", "reference_code at")
    for line in tables.unchanged(matrix):
        assert line.startswith("hindsight") or (line.startswith(anew) and ", constructed seed" in line)


def test_what_the_page_says_in_words_is_so(matrix):
    page = " ".join(PAGE.read_text().split())
    assert "no video at all from L on, most words stay right on two of three specimens" in page
    rows = matrix.query("specimen == 'footage' and question == 'describe' and method == 'keep_none'")
    sums = rows.groupby("seed")[["count", "words"]].sum()
    assert sorted(sums["count"] / sums["words"] > 0.5) == [False, True, True]
    assert "FastVID, HoliTom (tau 1.0) and VisionZip (positions original) write the same answers" in page
    rows = matrix.query("specimen == 'constructed' and question == 'describe' and share == 0.1")
    right = rows.pivot_table(index=["seed", "video"], columns="method", values="right", aggfunc="first")
    three = right[["fastvid", "holitom (tau=1.0)", "visionzip (positions=original)"]]
    assert (three.nunique(axis=1) == 1).all() and right.nunique(axis=1).mean() > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_what_the_page_says_of_things_and_background_is_so(kind):
    """Without the background most words are lost, and many scenes are another one; with a tenth of it far
    fewer. On Qwen2.5-VL nearly all stay right."""
    table = things_and_background(kind).set_index("kept")
    alone, beside = table.loc["tokens that show a thing"], table.loc["these, and 10 % of the others"]
    if kind == "footage-qwen2.5-vl":
        assert alone["words"] > 85 and alone["another scene"] < 5
    else:
        assert alone["words"] < 50 < beside["words"] - 10 and alone["another scene"] > 25
