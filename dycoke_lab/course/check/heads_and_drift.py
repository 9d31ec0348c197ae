"""Exercises of notebooks 03 to 05."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dycoke_lab.course.check.block import one_word, renormalised
from dycoke_lab.course.check.small import drawn, listed
from dycoke_lab.course.check.verdict import Case, compare, same

__all__ = [
    "aim_of_a_head",
    "held_by_the_first_look",
    "one_word",
    "pick_the_layer",
    "renormalised",
    "step_cosines",
]


# 03: who aims?


def aim_of_a_head(yours: Any) -> bool:
    """`aim_of_a_head(attention, named)`: what % of a head's attention within the video falls on the tokens
    named? attention: (tokens,), its sum is what the video gets, at most 1. named: (tokens,) of bool."""

    def reference(attention: Tensor, named: Tensor) -> float:
        on = sum(value for value, here in zip(attention.tolist(), named.tolist(), strict=True) if here)
        return 100 * on / sum(attention.tolist())

    def hints(found: Any, expected: Any, case: Case) -> str:
        attention, named = case
        on = float((attention * named).sum())
        if same(found, 100 * on):
            return (
                f"The video gets only {float(attention.sum()):.0%} of this head's attention; the text has "
                "the rest. Divide by what the video gets."
            )
        if same(found, expected / 100):
            return f"This is a share ({expected / 100:.2f}). The answer is wanted in %, {expected:.0f} here."
        return _numbers(attention, named, found, expected)

    cases = [(0.6 * drawn(n, 6) / 6, torch.arange(6) % 3 == n % 3) for n in range(5)]
    return compare(yours, reference, cases, hints, "A head aims if this is large, whatever the text gets.")


def pick_the_layer(yours: Any) -> bool:
    """`pick_the_layer(changed, most)`: which L to take? changed: for L = 1, 2, 3, ..., the % of words that
    change. Take the lowest L with at most `most` %; if there is none, the L with the least."""

    def reference(changed: list[float], most: float) -> int:
        for place, value in enumerate(changed):
            if value <= most:
                return place + 1
        return changed.index(min(changed)) + 1

    def hints(found: Any, expected: Any, case: Case) -> str:
        changed, most = case
        if same(found, expected - 1):
            return (
                f"The list begins with L = 1, not with L = 0. For {changed} and at most {most}: {expected}."
            )
        if same(found, changed.index(min(changed)) + 1):
            return (
                f"L = {found} changes least, but L = {expected} is lower and is within {most} % too. The "
                "lower L, the more layers read fewer tokens."
            )
        return f"For {changed} (L = 1, 2, ...) and at most {most} %, expected L = {expected}, found {found}."

    cases: list[Case] = [
        ([40.0, 20.0, 1.5, 3.0, 0.5], 2.0), ([9.0, 2.0, 1.0], 2.0), ([9.0, 5.0, 6.0], 2.0), ([0.0, 0.0], 1.0),
        ([30.0, 12.0, 8.0, 4.0, 1.0, 0.2], 5.0),
    ]  # fmt: skip
    return compare(yours, reference, cases, hints, "The lowest L that is fine saves most.")


# 04: does the first look tell?


def step_cosines(yours: Any) -> bool:
    """`step_cosines(attention)`: the cosine of each step's attention with the step before; one number fewer
    than there are steps. attention: (steps, tokens)."""

    def reference(attention: Tensor) -> list[float]:
        found = []
        for one, other in zip(attention[1:].tolist(), attention[:-1].tolist(), strict=True):
            dot = sum(a * b for a, b in zip(one, other, strict=True))
            found.append(dot / (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5)
        return found

    def hints(found: Any, expected: Any, case: Case) -> str:
        attention = case[0]
        if same(found, (attention[1:] * attention[:-1]).sum(1)):
            return "Divide by both lengths: without that, strong attention looks alike only for being strong."
        first = torch.nn.functional.cosine_similarity(attention[1:], attention[:1], dim=1)
        if len(expected) > 1 and same(found, first):
            return "You compared with step 0. Compare each step with the one just before it."
        return f"Expected {listed(expected)} for attention of {len(attention)} steps, found {found}."

    cases = [(drawn(n, 2 + n, 4),) for n in range(4)]
    return compare(yours, reference, cases, hints, "1: nothing has moved. 0: not one token in common.")


def held_by_the_first_look(yours: Any) -> bool:
    """`held_by_the_first_look(attention, count)`: what % of each step's attention within the video do the
    `count` strongest tokens of step 0 hold? One number a step, step 0 included. attention: (steps,
    tokens)."""

    def reference(attention: Tensor, count: int) -> list[float]:
        first = sorted(range(attention.shape[1]), key=lambda token: -float(attention[0, token]))[:count]
        rows = attention.tolist()
        return [100 * sum(row[token] for token in first) / sum(row) for row in rows]

    def hints(found: Any, expected: Any, case: Case) -> str:
        attention, count = case
        own = attention.topk(count, 1).values.sum(1) / attention.sum(1)
        if same(found, 100 * own):
            return "You took each step's own strongest tokens. A single choice has only those of step 0."
        if same(found, [value / 100 for value in expected]):
            return "These are shares. The answer is wanted in %."
        first = attention[0].topk(count).indices
        on = attention[:, first].sum(1)
        if same(found, 100 * on) or same(found, on):
            return "The rows do not sum to 1. Divide by what the step's tokens get in all."
        if same(found, expected[1:]):
            return "Step 0 is missing: one number for each step, the first included."
        return f"Expected {listed(expected)} for {count} of {attention.shape[1]} tokens, found {found}."

    cases = [(drawn(40 + n, 3 + n, 8), 1 + n % 3) for n in range(5)]
    return compare(yours, reference, cases, hints, "This is what a single choice leaves for later steps.")


def _numbers(attention: Tensor, named: Tensor, found: Any, expected: float) -> str:
    where = named.nonzero()[:, 0].tolist()
    return f"For {listed(attention.tolist())}, named {where}: expected {expected:.1f} %, found {found}."
