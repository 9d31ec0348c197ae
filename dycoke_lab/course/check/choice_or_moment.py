"""Exercises of notebook 08."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dycoke_lab.course.check.hints import as_set, first_known, highest, shown
from dycoke_lab.course.check.verdict import Case, compare

__all__ = ["choose_by_hindsight", "only_one_right", "points_lost"]
HAND = [[0.4, 0.3, 0.1, 0.1, 0.05, 0.05], [0.1, 0.05, 0.5, 0.05, 0.2, 0.1], [0.05, 0.1, 0.1, 0.1, 0.4, 0.25],
        [0.05, 0.05, 0.4, 0.1, 0.3, 0.1]]  # fmt: skip


def points_lost(yours: Any) -> bool:
    """points_lost(table, method): points of words that a method loses against "full". table: columns method,
    video, count (words right) and words (of how many)."""

    def share(table: pd.DataFrame, method: str) -> float:
        right = of = 0
        for row in table.itertuples():
            if row.method == method:
                right, of = right + row.count, of + row.words  # type: ignore[operator]
        return 100 * right / of

    def reference(table: pd.DataFrame, method: str) -> float:
        return share(table, "full") - share(table, method)

    def hints(found: Any, expected: Any, case: Case) -> str:
        table, method = case
        by_video = table.assign(share=100 * table["count"] / table["words"]).groupby("method")["share"].mean()
        full = share(table, "full")
        why = first_known(
            found,
            (-expected, "What is lost is positive: the full cache minus the method."),
            (expected / 100, "In points of %: times 100."),
            (100 * expected / full, "Points are a difference of two %, not divided by the full cache's."),
            (by_video["full"] - by_video[method], "Add up words over videos first: long answers count more."),
            (share(table, method), "This is what the method has right. How much more has the full cache?"),
        )
        mine = full - expected
        return f"{method} has {mine:.1f} % of words, full {full:.1f} %; you found {shown(found)}. {why}"

    random = torch.Generator().manual_seed(11)
    cases: list[Case] = []
    for _ in range(4):
        words = [5, 8, 11, 14]
        right = torch.rand(3, 4, generator=random).mul(0.5).tolist()
        rows = [
            {"method": name, "video": video, "words": of, "count": of - math.floor(wrong * of * scale)}
            for name, line, scale in zip(("full", "dynamic", "random"), right, (0.3, 1, 2), strict=True)
            for video, (of, wrong) in enumerate(zip(words, line, strict=True))
        ]
        cases += [(pd.DataFrame(rows), "dynamic"), (pd.DataFrame(rows), "random")]
    return compare(yours, reference, cases, hints, "A negative number would be a gain.")


def only_one_right(yours: Any) -> bool:
    """only_one_right(one, other): of paired answers, 1 right and 0 wrong, how many only the first method has
    right, and how many only the second."""

    def reference(one: list[int], other: list[int]) -> tuple[int, int]:
        pairs = list(zip(one, other, strict=True))
        return pairs.count((1, 0)), pairs.count((0, 1))

    def hints(found: Any, expected: Any, case: Case) -> str:
        one, other = case
        why = first_known(
            found,
            (expected[::-1], "The first number is of the first method."),
            ((sum(one), sum(other)), "Leave out the videos that both have right: they tell nothing."),
            (expected[0] - expected[1], "Return both numbers: 1 against 0 is not 11 against 10."),
            (sum(expected), "Return two numbers: for each method what it alone has right."),
        )
        return f"{one} and {other}: it is {expected}; you found {shown(found)}. {why}"

    random = torch.Generator().manual_seed(12)
    cases: list[Case] = [([1, 1, 1, 0, 0], [1, 0, 0, 1, 0]), ([1, 1], [1, 1])]
    cases += [tuple(torch.randint(2, (2, 9), generator=random).tolist()) for _ in range(4)]
    return compare(yours, reference, cases, hints, "These two numbers are all that McNemar's test looks at.")


def choose_by_hindsight(yours: Any) -> bool:
    """choose_by_hindsight(attention, budget): the set of tokens that one choice keeps if it knows the whole
    answer. attention: (steps, tokens), step 0 first, the prompt's last token."""

    def reference(attention: Tensor, budget: int) -> set[int]:
        return highest([sum(column) for column in zip(*attention[1:].tolist(), strict=True)], budget)

    def hints(found: Any, expected: Any, case: Case) -> str:
        attention, budget = case
        for values, text in (
            (attention.sum(0), "Leave out step 0: it is the prompt's last token, not yet the answer."),
            (attention[1:].max(0).values, "Add up over steps: this is the highest at any one step."),
            (attention[0], "This is the prompt's choice. Look at the steps after it."),
            (attention[1], "This is the first decoding step's choice. Add up all steps of the answer."),
            (attention[-1], "This is the last step's choice. Add up all steps of the answer."),
        ):
            if found == highest(values.tolist(), budget):
                return text
        return f"Of {len(attention[0])} tokens, it is {expected}; you found {shown(found)}."

    cases: list[Case] = [(torch.tensor(HAND), 2)]
    random = torch.Generator().manual_seed(13)
    while len(cases) < 8:
        attention = torch.randn(5, 7, generator=random).mul(1.5).softmax(1)
        other = [attention.sum(0), attention[1:].max(0).values, *attention[[0, 1, -1]]]
        choices = [reference(attention, 3), *(highest(values.tolist(), 3) for values in other)]
        if all(choices.count(choice) == 1 for choice in choices):  # so that each mistake can be told
            cases.append((attention, 3))
    done = "No method can do so while it writes: it would have to know the future."
    return compare(as_set(yours), reference, cases, hints, done)
