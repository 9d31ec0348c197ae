"""Exercises of notebooks 09 to 11: each solution is right, and what goes wrong gets a hint that names it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dycoke_lab.bench.break_even import Selecting, selecting, steps_to_pay
from dycoke_lab.course import check
from dycoke_lab.course.steps import ask, step_by_hand
from dycoke_lab.methods import LastQuery, Selector
from dycoke_lab.methods.scores import top

SOLUTIONS = Path(__file__).parents[2] / "notebooks" / "solutions"


def solution(number):
    (path,) = SOLUTIONS.glob(f"{number}_*.py")
    spec = importlib.util.spec_from_file_location(f"solution_{number}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unpaired(one, other):
    draw = np.random.default_rng(0)
    means = [np.array(v, float)[draw.integers(len(v), size=(4000, len(v)))].mean(1) for v in (one, other)]
    return np.quantile(means[0] - means[1], [0.025, 0.975])


def of_single_videos(one, other):
    return np.quantile(np.array(one, float) - np.array(other), [0.025, 0.975])


def same_anywhere(full, compressed):
    return 100 * len(set(full.split()) & set(compressed.split())) / len(set(full.split()))


def of_the_shorter(full, compressed):
    both = list(zip(full.split(), compressed.split(), strict=False))
    return 100 * sum(a == b for a, b in both) / len(both)


def one_sided(one, other):
    ahead, behind = (sum(a > b for a, b in zip(*x, strict=True)) for x in ((one, other), (other, one)))
    throws = ahead + behind
    return sum(math.comb(throws, k) for k in range(max(ahead, behind), throws + 1)) / 2**throws


def with_ties(one, other):
    throws, heads = len(one), max(
        sum(a > b for a, b in zip(*x, strict=True)) for x in ((one, other), (other, one))
    )  # fmt: skip
    return min(1.0, 2 * sum(math.comb(throws, k) for k in range(heads, throws + 1)) / 2**throws)


class ByPlace(Selector):
    def select(self, step):
        mask = torch.zeros_like(step.candidates)
        mask[:, ::2] = True
        return mask & step.candidates


class MergedAwayToo(Selector):
    def select(self, step):
        mask = torch.zeros_like(step.candidates)
        mask[:, ::2] = True
        return mask


class ThisStep(Selector):
    every_step, can_return = True, True

    def select(self, step):
        return top(step.scores, step.candidates, step.budget)


class RemembersTooLong(ThisStep):
    seen: list = []  # noqa: RUF012

    def select(self, step):
        self.seen.append(step.scores)
        size = step.scores.shape[1]
        total = sum(scores for scores in self.seen if scores.shape[1] == size)
        return top(total, step.candidates, step.budget)


class Nothing(Selector):
    def select(self, step): ...


class Everything(Selector):
    fixed_budget = False

    def select(self, step):
        return step.candidates


WRONG = [
    ("paired_interval", lambda one, other: ..., "Write your own"),
    ("paired_interval", unpaired, "draw the videos of each method apart"),
    ("paired_interval", of_single_videos, "the mean of each draw, not of single videos"),
    ("paired_interval", lambda one, other: (np.mean(one) - np.mean(other),) * 2, "with replacement"),
    ("paired_interval", lambda one, other: 3.0, "Return two numbers"),
    ("words_kept", lambda full, compressed: ..., "Write your own"),
    ("words_kept", same_anywhere, "at the same place"),
    ("words_kept", of_the_shorter, "what is missing did not stay"),
    ("words_kept", lambda full, compressed: 1.0, "in per cent"),
    ("mcnemar_p", lambda one, other: ..., "Write your own"),
    ("mcnemar_p", one_sided, "Two-sided"),
    ("mcnemar_p", with_ties, "leave them out"),
    ("kv_bytes", lambda *case: ..., "Write your own"),
    ("kv_bytes", lambda layers, heads, dim, tokens, element: layers * heads * dim * tokens * element,
     "a key and a value"),
    ("kv_bytes", lambda layers, heads, dim, tokens, element: 2 * heads * dim * tokens * element,
     "Every layer"),
    ("step_seconds", lambda *case: ..., "Write your own"),
    ("step_seconds", lambda w, kv, b, ops, width, peak: min((w + b * kv) / width, b * ops / peak),
     "not the quicker"),
    ("step_seconds", lambda w, kv, b, ops, width, peak: (w + b * kv) / width + b * ops / peak,
     "at the same time"),
    ("step_seconds", lambda w, kv, b, ops, width, peak: max(b * (w + kv) / width, b * ops / peak),
     "once for the whole batch"),
    ("step_seconds", lambda w, kv, b, ops, width, peak: (w + b * kv) / width, "arithmetic takes longer"),
    ("steps_to_pay", lambda cost, saved: ..., "Write your own"),
    ("steps_to_pay", lambda cost, saved: cost / saved if saved > 0 else math.inf, "round up"),
    ("steps_to_pay", lambda cost, saved: cost // saved + 1 if saved > 0 else math.inf, "Equal is enough"),
    ("steps_to_pay", lambda cost, saved: math.ceil(cost / abs(saved or 1)), "never pays"),
    ("every_second", Nothing, "Write your own"),
    ("every_second", LastQuery(0.5), "the class itself"),
    ("every_second", ByPlace, "Count candidates, not places"),
    ("every_second", MergedAwayToo, "merged away"),
    ("running_sum", Nothing, "every_step = True"),
    ("running_sum", ThisStep, "as dynamic pruning does"),
    ("running_sum", RemembersTooLong, "outlives the answer"),
    ("beats_fastv", Nothing, "Write your own"),
    ("beats_fastv", print, "Give a class"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "yours", "words"), WRONG, ids=lambda value: getattr(value, "__name__", None)
)
def test_what_goes_wrong_gets_a_hint_that_names_it(name, yours, words, capsys):
    assert getattr(check, name)(yours) is False
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet. ") and words in printed


@pytest.mark.parametrize(
    ("number", "name", "of"),
    [
        ("09", "paired_interval", "paired_interval"), ("09", "words_kept", "words_kept"),
        ("09", "mcnemar_p", "mcnemar_p"), ("10", "kv_bytes", "kv_bytes"),
        ("10", "step_seconds", "step_seconds"), ("10", "steps_to_pay", "steps_to_pay"),
        ("11", "every_second", "EverySecond"), ("11", "running_sum", "RunningSum"),
    ],
)  # fmt: skip
def test_a_solution_is_right(number, name, of, capsys):
    assert getattr(check, name)(getattr(solution(number), of)) is True
    assert capsys.readouterr().out.startswith("Right.")


@pytest.mark.slow
def test_the_solution_beats_fastv_with_one_choice(capsys):
    assert check.beats_fastv(solution("11").Spread, videos=8)
    assert not check.beats_fastv(LastQuery, videos=8) and not check.beats_fastv(ThisStep, videos=8)
    assert not check.beats_fastv(Everything, videos=8)
    _, once, again, many, _ = capsys.readouterr().out.split("\n")
    assert "That may be chance" in once and "chooses again" in again and "are allowed" in many


def test_a_step_by_hand_is_what_a_selector_gets():
    step = step_by_hand([0.1, 0.4, 0.3, 0.2], 0.5, candidates=[True, False, True, True], frames=2)
    assert step.budget.tolist() == [2] and step.place.frame.tolist() == [[0, 0, 1, 1]]
    assert LastQuery(0.5).select(step).tolist() == [[False, False, True, True]]
    attention = torch.tensor([[3.0, 2, 1, 0], [0, 1, 2, 3], [0, 3, 0, 2]])
    once, again = ask(LastQuery(0.5), attention), ask(ThisStep(0.5), attention)
    assert once[0].tolist() == [True, True, False, False] and once[1:] == [None, None]
    assert [choice.int().tolist() for choice in again] == [[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]


def test_break_even_is_where_nothing_is_saved():
    costs = Selecting(read=1000, skipped=600, scored=50, moved=1100)
    assert costs.break_even == 0.5 and costs.saved(0.5) == 0 and costs.saved(0) == 0.55
    assert [steps_to_pay(*case) for case in ((4, 2), (5, 2), (1, 0))] == [2, 3, math.inf]


def test_the_bytes_of_selecting_are_those_of_the_model_of_the_cost():
    from dataclasses import replace

    from dycoke_lab.bench.configs import BenchmarkConfig
    from dycoke_lab.bench.roofline import work

    ours = BenchmarkConfig("llava-ov-7b", 32, 1, 1, "dycoke", 0.7, 0.7)
    costs = selecting("llava-ov-7b", 32)
    for changed in (0.0, 0.4, 1.0):
        merged = work(replace(ours, prune_ratio=0.0)).step_bytes
        assert costs.saved(changed) * costs.read == pytest.approx(merged - work(ours, 2, changed).step_bytes)


@pytest.mark.data
def test_the_verdicts_are_what_the_losses_say():
    from dycoke_lab.evaluation import tables, verdicts
    from dycoke_lab.evaluation.grids import read_grid
    from dycoke_lab.results import EVIDENCE

    rows = tables.counted(read_grid(EVIDENCE / "footage" / "seed-0"))
    rows = rows[(rows["question"] == "describe") & (rows["merge_ratio"] == 0)]
    slow = tables.losses(rows).set_index(["from_layer", "prune_ratio", "method"])["loss"] * 100
    fast = verdicts.points_lost("footage")
    fast = fast[(fast["seed"] == 0) & (fast["merge_ratio"] == 0) & (fast["method"] != "full")]
    fast = fast.set_index(["from_layer", "prune_ratio", "method"])["lost"]
    pd.testing.assert_series_equal(fast.sort_index(), slow.sort_index(), check_names=False)
    found = verdicts.leads("footage").loc[(8, 0)]
    others = [slow[8, 0.9, name] for name in verdicts.ONE_CHOICE]
    assert found["lead, P = 0.9"] == pytest.approx(min(others) - slow[8, 0.9, "dynamic"])
    assert found["left"] == pytest.approx(slow[8, 0.9, "keep_none"])
    assert set(verdicts.verdicts("footage")["holds"]) <= {"yes", "no"}
