"""Notebook 12: its exercises, its names, its fronts and verdicts, and its figures on rows that nobody ran."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from helpers.matrix_rows import write_matrix

from dycoke_lab.course import check
from dycoke_lab.evaluation import matrix_report as report
from dycoke_lab.evaluation import matrix_tables as tables
from dycoke_lab.evaluation.matrix import ABLATION, ablations, plan
from dycoke_lab.methods import METHODS, compose
from dycoke_lab.viz import matrix_ablations, matrix_figures
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.equal_tokens import at_share, solved, survivors, why_not
from dycoke_lab.viz.widgets import CompareKept

SOLUTIONS = Path(__file__).parents[2] / "notebooks" / "solutions"
CLIP = "constructed-2-scenes.mp4"


@pytest.fixture(scope="module")
def solution():
    spec = importlib.util.spec_from_file_location("solution_12", SOLUTIONS / "12_which_method.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stub(*_): ...


def strictly_better_in_both(points):
    return [not any(a < cost and b > words for a, b in points) for cost, words in points]


def equal_points_fall(points):
    return [
        not any(a <= cost and b >= words for m, (a, b) in enumerate(points) if m != n)
        for n, (cost, words) in enumerate(points)
    ]


def dear_is_good(points):
    return [
        not any(a >= c and b >= w and (a, b) != (c, w) for a, b in points) for c, w in points
    ]  # fmt: skip


def by_the_mean(points, p):
    sure, mean = sum(value < 0.05 for value in p) >= 2, sum(points) / 3
    return "not told apart" if not sure or mean == 0 else "ahead" if mean > 0 else "behind"


def one_seed_is_enough(points, p):
    if min(p) >= 0.05 or min(points) <= 0 <= max(points):
        return "not told apart"
    return "ahead" if min(points) > 0 else "behind"


def all_seeds_sure(points, p):
    if max(p) >= 0.05 or min(points) <= 0 <= max(points):
        return "not told apart"
    return "ahead" if min(points) > 0 else "behind"


@pytest.mark.parametrize("name", ["pareto_front", "told_apart"])
def test_solutions_are_right(solution, name, capsys):
    assert getattr(check, name)(getattr(solution, name))
    assert capsys.readouterr().out.startswith("Right.")


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("pareto_front", stub, "Write your own"),
        ("pareto_front", strictly_better_in_both, "As many words for less cost"),
        ("pareto_front", equal_points_fall, "do not beat each other"),
        ("pareto_front", dear_is_good, "Less cost is better"),
        ("pareto_front", lambda points: points, "truth values"),
        ("told_apart", stub, "Write your own"),
        ("told_apart", by_the_mean, "All seeds must agree"),
        ("told_apart", one_seed_is_enough, "two are needed"),
        ("told_apart", all_seeds_sure, "Two seeds with p below .05 are enough"),
        ("told_apart", lambda points, p: points[0] > 0, '"ahead", "behind"'),
    ],
)
def test_what_goes_wrong_is_named(name, wrong, said, capsys):
    assert not getattr(check, name)(wrong)
    out = capsys.readouterr().out
    assert out.startswith("Not yet.") and said in out


def test_the_library_agrees_with_the_solutions(solution):
    points = [(10, 60), (20, 80), (20, 70), (20, 80), (30, 80), (5, 10)]
    assert tables.front(*zip(*points, strict=True)) == solution.pareto_front(points)
    for more, p in (
        ([1, 2, 3], [0.01, 0.02, 0.5]),
        ([-1, -2, -3], [0.01, 0.02, 0.5]),
        ([1, 2, 3], [0.01, 1, 1]),
    ):
        assert tables.verdict(more, p) == solution.told_apart(more, p)
    assert tables.verdict([1, 2], [0.01, 0.01]) == tables.TOO_FEW


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    write_matrix(folder)
    return tables.load_matrix(folder)


def test_all_kinds_and_seeds_that_are_there_are_loaded(matrix):
    assert set(matrix["specimen"]) == {"constructed", "footage"} and set(matrix["seed"]) == {0, 1, 2}
    assert matrix["line"].nunique() == len(plan()) + 1
    assert (matrix["survive"] - matrix["share"]).abs().max() < 1e-9
    assert (matrix["count"] <= matrix["words"]).all()


def test_no_rows_say_which_command_makes_them(tmp_path):
    (tmp_path / "footage" / "seed-0").mkdir(parents=True)
    (tmp_path / "footage" / "seed-0" / "provenance.json").write_text("{}")  # of a run that has just begun
    with pytest.raises(FileNotFoundError, match="dycoke-lab matrix footage --seed 0"):
        tables.load_matrix(tmp_path)


def test_each_line_has_a_name_and_each_ablation_its_own(matrix):
    names = {tables.name_of(method) for method in matrix["method"].unique()}
    assert len(names) == matrix["method"].nunique() and "DyCoke (TTM + dynamic)" in names
    changed = matrix[matrix["group"] == ABLATION]["method"].unique()
    said = {tables.ablation_name(method) for method in changed}
    assert len(said) == len(changed) == len(ablations(0.25)) and not any(
        "=" in name and "L =" not in name for name in said
    )


def test_verdicts_are_those_of_the_paired_table(matrix):
    rows = matrix[matrix["specimen"].eq("footage") & matrix["question"].eq("describe")]
    rows = pd.concat([rows.assign(video=rows["video"] + f" {copy}") for copy in range(8)], ignore_index=True)
    found = tables.verdicts(rows).set_index("line")["verdict"]
    slow = tables.against(rows, tables.DYCOKE, draws=1)
    for line, seeds in slow.groupby("line"):
        assert found[line] == tables.verdict(seeds["points"].tolist(), seeds["p"].tolist())
    assert (
        set(found) > {tables.ALIKE}
        and tables.verdicts(rows[rows["seed"] < 2])["verdict"].eq(tables.TOO_FEW).all()
    )


def test_the_front_leaves_out_what_cannot_be_chosen(matrix):
    table = tables.means(matrix)
    some = matrix_figures.on_front(table[table["specimen"] == "footage"], "read")
    assert "hindsight" not in set(some["method"]) and ABLATION not in set(some["group"])
    best = some[some["front"]]
    assert best["read"].is_monotonic_increasing and best["words"].is_monotonic_increasing
    named = matrix_figures.named_lines(some)
    assert {tables.DYCOKE, "fastv", "visionzip"} <= set(named["method"]) and "control" in set(named["group"])


def test_tables_and_figures_are_of_what_is_there(matrix):
    table, found = tables.means(matrix), tables.verdicts(matrix)
    shown = matrix_figures.by_share(table, found)
    assert list(shown.columns)[:3] == ["line", "acts", "constructed, 50 %"] and len(shown.columns) == 8
    assert "DyCoke (TTM + dynamic)" in set(shown["line"])
    assert "colspan" in matrix_figures.table_style(shown).to_html()
    assert len(report.contents(matrix)) == 6 and len(report.stages(table)) == 10
    said = report.sentences(table, found)
    assert "constructed" in said and said.endswith(".") and "no verdict" not in said
    few = tables.verdicts(matrix[matrix["seed"] == 0])
    assert "not said before three seeds" in report.sentences(table, few)
    assert set(report.counts(few).columns) == {"specimen", "left", tables.TOO_FEW}
    some = report.picks(table)
    figures = [
        matrix_figures.fronts(table, "read", report.cheap(table, "read")),
        matrix_figures.positions(report.positions_of(matrix, some), "a title"),
        matrix_figures.lengths(report.lengths_of(matrix, some), "a title"),
        matrix_ablations.ablations(matrix_ablations.differences(matrix, draws=10), "a title"),
    ]
    assert [len(figure.axes) for figure in figures] == [4, 2, 2, 2]
    plt.close("all")
    part = matrix[(matrix["question"] == "describe") | (matrix["seed"] == 0)]  # all questions to seed 0 alone
    lost, alone = report.lengths_of(part, some), report.lengths_of(matrix[matrix["seed"] == 0], some)
    pd.testing.assert_frame_equal(lost, alone)
    assert report.lost_title(lost).startswith("DyCoke, points lost") and "footage: " in report.lost_title(
        lost
    )
    one = matrix[(matrix["question"] == "describe") & (matrix["group"] != ABLATION)]
    assert report.lengths_of(one, some).empty and matrix_ablations.differences(one).empty


def test_a_choice_in_each_layer_is_compared_with_a_shared_one_by_hand(matrix):
    table = matrix_ablations.for_each_layer(matrix, draws=10).set_index(["specimen", "tokens left, %"])
    rows = matrix.query("specimen == 'footage' and question == 'describe' and share == 0.25")
    sums = rows.groupby(["method", "seed"])[["count", "words"]].sum()
    words = 100 * sums["count"] / sums["words"]
    by_hand = words["tova (answer_counts=False)"] - words["last_query"]
    found = table.loc["footage", 25]
    assert found["points"] == pytest.approx(by_hand.mean()) and len(table) == 6
    assert [found["lowest"], found["highest"]] == pytest.approx([by_hand.min(), by_hand.max()])
    assert found["seeds above 0"] <= (by_hand > 0).sum() and found["seeds below 0"] <= (by_hand < 0).sum()


def test_points_lost_are_against_the_full_cache_of_the_same_seed_by_hand(matrix):
    rows = matrix.query("specimen == 'footage' and question == 'describe' and share in [0.25, 1.0]")
    sums = rows.groupby(["method", "seed"])[["count", "words"]].sum()
    words = 100 * sums["count"] / sums["words"]
    by_hand = words["full"] - words["fastvid"]
    table = tables.means(matrix).query("specimen == 'footage' and share == 0.25").set_index("method")
    found = table.loc["fastvid", ["lost", "lost least", "lost most"]].tolist()
    assert found == pytest.approx([by_hand.mean(), by_hand.min(), by_hand.max()])
    assert by_hand.min() < by_hand.max()


def test_fidelity_is_a_rank_correlation_by_hand(matrix):
    table = tables.means(matrix)
    found = report.fidelity(table).set_index(["specimen", "left"])["rank correlation"]
    some = table[(table["specimen"] == "footage") & (table["share"] == 0.25)]
    by_hand = some["words"].rank().corr(some["agree"].rank())
    assert found["footage", "25 %"] == pytest.approx(by_hand) and len(found) == 8


def test_costs_are_shown_and_the_dearest_are_named():
    columns = [
        "prefill",
        "step",
        "own prefill",
        "own step",
        "held",
        "read",
        "survive",
        "prefill FLOPs",
        "step FLOPs",
    ]
    costs = pd.DataFrame(100.0, range(4), [*columns, "H100 prefill", "H100 step"])
    costs["method"], costs["group"] = ["full", "evs", "dynamic", "ttm + dynamic"], "a place"
    costs["own prefill"], costs["own step"] = [900, 7.4, 5, 6], [900, 0, 3, 2]
    shown = matrix_figures.by_cost(costs)
    assert shown["line"].tolist()[:2] == ["full cache", "EVS"] and shown["prefill, own ms"][1] == "7.4"
    assert "colspan" in matrix_figures.table_style(shown).to_html()
    prefill, step = report.own_time(costs, most=1).split("\n")
    assert prefill.startswith("Most time of their own, prefill: EVS 7 ms (prefill 100 %") and "3 ms" in step


def test_positions_are_of_the_longest_answers(matrix):
    found = report.positions_of(matrix, ["full", tables.DYCOKE])
    assert set(found["position"]) == {0, 1, 2, 3, 4}
    rows = matrix.query(
        "scenes == 5 and question == 'describe' and method == 'full' and specimen == 'footage'"
    )
    by_hand = rows.groupby("seed")["right"].apply(lambda d: 100 * d.str[2].astype(int).mean() / 3).mean()
    is_it = (found["method"] == "full") & (found["specimen"] == "footage") & (found["position"] == 2)
    assert found[is_it]["words"].item() == pytest.approx(by_hand)


@pytest.fixture(scope="module")
def runner():
    return ClipRunner()


@pytest.mark.parametrize(
    "name", ["visionzip", "evs", "divprune", "fastvid", "pyramiddrop", "framefusion", "ttm"]
)
def test_a_method_leaves_the_share_on_a_clip(runner, name):
    found = at_share(runner, CLIP, name, prune_ratio=0.5)
    assert solved(name) and survivors(runner, CLIP, found, 3) == pytest.approx(0.5, abs=0.05)
    assert at_share(runner, CLIP, name, prune_ratio=0.5) is found


def test_quick_ones_are_as_before_and_what_has_no_one_picture_is_refused(runner):
    assert at_share(runner, CLIP, "fastv", 0.5, 0.7) == compose("fastv", 0.5, 0.7)
    refused = {name for name in METHODS if why_not(name)}
    assert refused == {"hindsight", "snapkv", "tova", "h2o", "streamingllm", "pyramidkv"}
    with pytest.raises(ValueError, match="SnapKV chooses in each head by itself"):
        CompareKept(runner, CLIP, ["dynamic", "snapkv"])


def test_the_panel_swaps_methods_of_all_seams(runner):
    panel = CompareKept(runner, CLIP, ["visionzip", "fastv"], prune_ratio=0.5)
    panel.wait()
    panel.controls["methods"].value = ("every_nth", "quest", "dynamic")
    panel.wait()
    labels = [label for label, _ in panel.runs]
    assert labels == ["every n-th token", "Quest-style pages, shared", "dynamic (DyCoke)"]
    assert [run.compression for _, run in panel.runs] == panel.compressions()
    pd.testing.assert_series_equal(
        pd.Series([int(run.states(6).active.sum()) for _, run in panel.runs]), pd.Series([64] * 3), rtol=0.1
    )
