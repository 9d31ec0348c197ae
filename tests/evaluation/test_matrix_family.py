"""A second family beside the first: whose order holds, by hand."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from helpers.matrix_rows import write_matrix

from dycoke_lab.evaluation import matrix_tables as tables
from dycoke_lab.evaluation.matrix_family import SECOND, beside, order_holds
from dycoke_lab.viz.matrix_family import both_families


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    write_matrix(folder / "first", seeds=2, questions=("describe",))
    write_matrix(folder / "second", specimens=("footage",), seeds=1, questions=("describe",))
    rows = tables.load_matrix(folder / "second")
    lacks = rows["method"].str.contains("visionzip")
    return tables.load_matrix(folder / "first"), rows[~lacks].assign(specimen="footage-qwen2.5-vl")


def test_both_have_the_same_lines_and_their_own_words(both):
    first, second = both
    table = beside(first, second)
    assert not table["method"].str.contains("visionzip").any() and "full" not in set(table["method"])
    assert table["place"].unique().tolist() == [
        "before the LLM",
        "inside the prefill",
        "on the KV cache",
        "two stages",
    ]
    row = table.set_index("method").loc["every_nth"]
    assert row["place"] == "before the LLM" and row["control"]
    for name, rows in (("first", first), ("second", second)):
        rows = rows[rows["specimen"].str.startswith("footage") & (rows["method"] == "every_nth")]
        rows = rows[rows["share"] == 0.25]
        by_seed = rows.groupby("seed")[["count", "words"]].sum()
        assert row[name] == pytest.approx(100 * (by_seed["count"] / by_seed["words"]).mean())
    figure = both_families(table, ("one", "another"), "a title")
    assert len(figure.axes) == 4
    plt.close("all")


def test_an_order_holds_by_hand():
    table = pd.DataFrame({
        "place": ["a", "a", "a", "b", "b", "b"], "first": [1, 2, 3, 4, 5, 6], "second": [10, 20, 30, 3, 2, 1]
    })  # fmt: skip
    found = order_holds(table).set_index("place")
    assert found["rank correlation"].tolist() == pytest.approx([-27 / 35, 1, -1])
    assert found["carries over"].tolist() == ["no", "yes", "no"] and found["lines"].tolist() == [6, 3, 3]


@pytest.mark.data
def test_the_committed_rows_are_what_the_protocol_says():
    rows = tables.load_matrix(SECOND)
    assert set(rows["specimen"]) == {"footage-qwen2.5-vl"} and set(rows["question"]) == {"describe"}
    assert set(rows["share"]) == {0.25, 1.0} and rows.groupby("line").size().unique().tolist() == [256]
