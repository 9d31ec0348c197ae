"""Exercises of notebooks 06 to 08: solutions are right; what is often got wrong gets a hint that says so."""

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from dycoke_lab.course import check
from dycoke_lab.course.check import merging_and_pruning as module
from dycoke_lab.methods import temporal_merge
from dycoke_lab.results.folders import ROOT
from dycoke_lab.viz import course_pruning, evidence_figures

SOLUTIONS = ROOT / "notebooks" / "solutions"
NAMES = ("06_merging", "07_dynamic_pruning", "08_choice_or_moment")


def solutions():
    found = {}
    for name in NAMES:
        spec = importlib.util.spec_from_file_location(f"solution_{name}", SOLUTIONS / f"{name}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        found |= {key: value for key, value in vars(loaded).items() if key in module.__all__}
    return found


RIGHT = solutions()


def test_every_exercise_has_a_solution_and_is_stated():
    assert RIGHT.keys() == set(module.__all__)
    for name in module.__all__:
        assert getattr(check, name).__doc__.startswith(f"{name}(")


@pytest.mark.parametrize("name", module.__all__)
def test_a_solution_is_right_and_a_stub_is_not(name, capsys):
    assert getattr(check, name)(RIGHT[name])
    assert capsys.readouterr().out.startswith("Right. ")
    for stub in (lambda *_: None, lambda *_: ...):
        assert not getattr(check, name)(stub)
        assert capsys.readouterr().out.startswith("Not yet. Write your own")
    assert not getattr(check, name)(0.5)
    assert "Give the function itself" in capsys.readouterr().out


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def left(first):
    """How many are left if `first` says which frames are retained whole."""
    return lambda frames, tokens, ratio: sum(
        tokens if first(frame) else round((1 - ratio) * tokens) for frame in range(frames)
    )


def by_references(*references):
    def merged(features, threshold):
        close = torch.cosine_similarity(features, features[list(references)], dim=2)
        return (close >= threshold) & (torch.arange(4) > 0)[:, None]

    return merged


def only_the_active(scores, before, budget):
    active = set(sorted(before, key=lambda token: -scores[token])[:budget])
    return active, before - active, active - before


def never_leave(scores, before, budget):
    active = before | RIGHT["dynamic_step"](scores, before, budget)[0]
    return active, before - active, active - before


def since_the_last(attention, below):
    made = [0]
    for step in range(1, len(attention)):
        if torch.cosine_similarity(attention[step], attention[made[-1]], dim=0) < below:
            made.append(step)
    return [step + 1 for step in made]


def mean_over_videos(table, method):
    share = (100 * table["count"] / table["words"]).groupby(table["method"]).mean()
    return share["full"] - share[method]


WRONG = [
    ("token_cosine", dot, "Divide it by the lengths"),
    ("token_cosine", lambda a, b: dot(a, b) / math.hypot(*a), "not of the first alone"),
    ("token_cosine", lambda a, b: dot(a, b) / (dot(a, a) * dot(b, b)), "square root"),
    ("token_cosine", lambda a, b: 1 - RIGHT["token_cosine"](a, b), "the distance"),
    ("tokens_left", left(lambda frame: False), "first frame of a window is retained whole"),
    ("tokens_left", left(lambda frame: frame == 0), "Each window has a first frame"),
    ("tokens_left", lambda f, t, k: -(-f // 4) * t + (f - -(-f // 4)) * int((1 - k) * t), "not down"),
    ("tokens_left", lambda f, t, k: -(-f // 4) * t + (f - -(-f // 4)) * round(k * t), "share that is merged"),
    ("tokens_left", lambda f, t, k: round((1 - 0.75 * k) * f * t), "Round in each frame"),
    ("merged_by_threshold", by_references(0, 0, 1, 2), "Frame 2 is compared with frame 0"),
    ("merged_by_threshold", by_references(0, 0, 0, 0), "Frame 3 is compared with frame 2"),
    ("merged_by_threshold", lambda f, t: ~RIGHT["merged_by_threshold"](f, t), "you mark those"),
    (
        "merged_by_threshold",
        lambda f, t: torch.cosine_similarity(f, f[[0, 0, 0, 2]], dim=2) >= t,
        "Frame 0 is the first",
    ),
    ("merged_by_threshold", lambda f, t: [1, 2], "Return a tensor of shape (4, 5)"),
    ("active_count", lambda n, p: round(p * n), "P is the share that becomes inactive"),
    ("active_count", lambda n, p: round((1 - p) * n), "At least one token"),
    ("active_count", lambda n, p: max(1, int((1 - p) * n + 1e-9)), "not down"),
    ("active_count", lambda n, p: math.ceil((1 - p) * n - 1e-9), "not up"),
    ("active_count", lambda n, p: (1 - p) * n, "whole token"),
    ("dynamic_step", only_the_active, "it can return"),
    ("dynamic_step", never_leave, "not among the highest leave"),
    ("dynamic_step", lambda s, b, n: RIGHT["dynamic_step"](s, b, n)[0], "Return three sets"),
    ("dynamic_step", lambda s, b, n: RIGHT["dynamic_step"](s, b, n)[::-1], "active is {"),
    ("dynamic_step", lambda s, b, n: (RIGHT["dynamic_step"](s, b, n)[0], set(), set()), "left is {"),
    ("selects_anew", since_the_last, "Compare with the step before"),
    ("selects_anew", lambda a, t: RIGHT["selects_anew"](a, t)[1:], "Step 1 always selects"),
    ("selects_anew", lambda a, t: [n - 1 for n in RIGHT["selects_anew"](a, t)], "first row is step 1"),
    (
        "selects_anew",
        lambda a, t: [1, *({*range(2, len(a) + 1)} - {*RIGHT["selects_anew"](a, t)})],
        "below the threshold",
    ),
    ("points_lost", lambda t, m: -RIGHT["points_lost"](t, m), "the full cache minus the method"),
    ("points_lost", lambda t, m: RIGHT["points_lost"](t, m) / 100, "times 100"),
    ("points_lost", mean_over_videos, "Add up words over videos first"),
    ("only_one_right", lambda a, b: (sum(a), sum(b)), "Leave out the videos that both have right"),
    ("only_one_right", lambda a, b: RIGHT["only_one_right"](b, a), "first number is of the first method"),
    ("only_one_right", lambda a, b: sum(a) - sum(b), "Return both numbers"),
    ("choose_by_hindsight", lambda a, n: set(a.sum(0).topk(n).indices.tolist()), "Leave out step 0"),
    ("choose_by_hindsight", lambda a, n: a[1:].amax(0).topk(n).indices, "highest at any one step"),
    ("choose_by_hindsight", lambda a, n: a[0].topk(n).indices.tolist(), "the prompt's choice"),
    ("choose_by_hindsight", lambda a, n: a[-1].topk(n).indices.tolist(), "the last step's choice"),
]


@pytest.mark.parametrize(("name", "yours", "words"), WRONG)
def test_a_misunderstanding_is_named(name, yours, words, capsys):
    assert not getattr(check, name)(yours)
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet. ") and words in printed
    assert len(printed) < 300


def test_a_learner_cannot_change_the_set_that_is_compared():
    def destructive(scores, before, budget):
        found = RIGHT["dynamic_step"](scores, set(before), budget)
        before.clear()
        return found

    assert check.dynamic_step(destructive)


def test_references_agree_with_the_library():
    """The solutions are right by the checks' slow references; the library says the same."""
    features = torch.randn(1, 6, 3) + 0.4 * torch.randn(4, 6, 3)
    merged = temporal_merge(features, threshold=0.9)
    gone = (merged.into != torch.arange(24)).view(4, 6)
    assert torch.equal(RIGHT["merged_by_threshold"](features, 0.9), gone)
    assert RIGHT["tokens_left"](9, 7, 0.6) == len(temporal_merge(torch.randn(9, 7, 3), 0.6).kept)


def test_what_hindsight_knows_is_a_row_each():
    columns = ["seed", "prune_ratio", "future_of", "mean"]
    rows = [
        (0, 0.9, "above", 0.9),
        (0, 0.9, "scoring", 0.75),
        (0, 0.95, "above", 0.5),
        (1, 0.9, "above", 0.8),
    ]
    table = course_pruning.hindsight_table(pd.DataFrame(rows, columns=columns))
    assert (
        table.loc["the layers from L on", (10, 0)] == 90 and table.loc["the layers from L on", (5, 0)] == 50
    )
    assert table.loc["layer L - 1 alone", (10, 0)] == 75 and table.shape == (2, 3)


def test_one_shot_stands_below_hindsight_where_both_were_measured():
    known = pd.DataFrame([(1, 0.9, "above", 0.9)], columns=["seed", "prune_ratio", "future_of", "mean"])
    other = pd.DataFrame(
        [("last_query", 1, 10, 0.5), ("last_query", 0, 10, 0.4), ("last_query", 1, 30, 0.6)],
        columns=["method", "seed", "kept", "mean"],
    )
    table = course_pruning.hindsight_table(known, other)
    assert table[10, 1].to_dict() == {"the layers from L on": 90, "nothing: one-shot, last query": 50}
    assert table.shape == (2, 1)


def test_names_at_line_ends_are_moved_apart_and_stay_inside():
    heights = evidence_figures.spread([0.0, 0.1, 0.2, 5.0, 9.9, 10.0], 1.0, 0.5, 9.5)
    assert all(high - low >= 1 - 1e-9 for low, high in pairwise(heights))
    assert heights[0] == 0.5 and heights[3] == 5.0 and heights[-1] == 9.5


def test_a_table_of_no_rows_is_empty_and_can_be_shown():
    known = pd.DataFrame(columns=["seed", "prune_ratio", "future_of", "mean"])
    table = course_pruning.hindsight_table(
        known.astype({"seed": "int64", "prune_ratio": float, "mean": float})
    )
    assert table.empty and table._repr_html_() is not None
    assert course_pruning.hindsight_table(known).empty


def test_what_was_not_active_at_the_step_before_is_marked():
    active = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 0]]).bool()
    assert course_pruning.token_states_by_hand(active).tolist() == [[1, 1, 0], [0, 1, 2], [2, 1, 0]]


def test_alike_counts_the_tokens_that_are_compared():
    frames = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 0.0]]])
    assert course_pruning.alike(temporal_merge(frames, 0.5), 0.99) == 50


def counts(method, question, right, seed=0):
    about = dict(specimen="footage", seed=seed, merge_ratio=0.0, from_layer=8, prune_ratio=0.9)
    if method == "full":
        about |= dict(from_layer=0, prune_ratio=0.0)
    return dict(about, method=method, question=question, count=right, words=10)


def test_lost_points_keep_the_methods_order_and_are_drawn():
    rows = [
        counts(method, question, right)
        for question, full in (("actor", 10), ("describe", 9))
        for method, right in (("full", full), ("random", 3), ("dynamic", 8), ("last_query", 5))
    ]
    lost = course_pruning.lost_points(pd.DataFrame(rows), ["last_query", "dynamic"])
    assert lost["method"].tolist() == ["last_query", "last_query", "dynamic", "dynamic"]
    assert lost["loss"].round(6).tolist() == [0.5, 0.4, 0.2, 0.1]
    figure = course_pruning.short_answers(lost, "title")
    assert figure.axes[0].get_xticklabels()[0].get_text() == "one word"
    plt.close(figure)


def test_choices_are_drawn_side_by_side():
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.5, 0.4]])
    active = torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
    figure = course_pruning.choice_tables(
        scores, {"one": active, "two": active}, "title", titles={"two": "2"}
    )
    assert [ax.get_title() for ax in figure.axes] == ["one", "2"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "30", "20", "10", "50", "40"]
    plt.close(figure)
