"""Exercises of notebook 11: methods of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dycoke_lab.course.check.verdict import WRITE, compare, hint, right
from dycoke_lab.course.steps import ask
from dycoke_lab.methods import Selector

__all__ = ["beats_fastv", "every_second", "running_sum"]

LEAD = 2.0  # points to beat FastV by: its own choice, made after the prefill, differs by less or is behind


def every_second(yours: Any) -> bool:
    """Write a class `EverySecond(Selector)`: with P = 0.5, keep every second of the candidates, the
    first one on. It must choose exactly `step.budget` tokens, also where merging has left holes."""
    if (bad := _no_selector(yours)) is not None:
        return hint(bad)
    draw = torch.Generator().manual_seed(1)
    masks = [torch.ones(6, dtype=torch.bool), torch.ones(7, dtype=torch.bool)]
    masks += [torch.rand(size, generator=draw) < 0.7 for size in (9, 16, 25)]
    cases = [(torch.rand(len(mask), generator=draw), mask) for mask in masks]

    def made(scores: Tensor, mask: Tensor) -> Any:
        (choice,) = ask(yours(prune_ratio=0.5, from_layer=1), scores[None], mask)
        return choice if choice is None or choice is ... else choice.int().tolist()

    def reference(scores: Tensor, mask: Tensor) -> list[int]:
        kept, number = [], 0
        for there in mask.tolist():
            kept.append(int(there and number % 2 == 0))
            number += there
        return kept

    def hints(found: Any, expected: Any, case: Any) -> str:
        mask = case[1].int().tolist()
        said = f"Candidates {mask}: you chose {found}, expected {expected}."
        if len(found) == len(mask) and any(one and not there for one, there in zip(found, mask, strict=True)):
            return f"{said} Some of yours are merged away: choose among step.candidates."
        if sum(found) != sum(expected):
            return (
                f"{said} These are {sum(found)} tokens; step.budget is {sum(expected)}. Count "
                "candidates, not places (cumsum)."
            )
        return f"{said} Number the candidates 0, 1, 2, ..., and keep those with even numbers."

    return compare(made, reference, cases, hints, "The same count as all others, so it can be compared.")


def running_sum(yours: Any) -> bool:
    """Write a class `RunningSum(Selector)`, with every_step = True and can_return = True: at each step
    keep the `step.budget` candidates with the largest sum of attention over the steps of this answer so
    far."""
    if (bad := _no_selector(yours)) is not None:
        return hint(bad)
    if not (yours.every_step and yours.can_return):
        return hint("Set every_step = True (ask at each step) and can_return = True (nothing is evicted).")
    draw = torch.Generator().manual_seed(2)
    cases = [
        (torch.rand(steps, tokens, generator=draw) ** 3,)
        for steps, tokens in ((1, 4), (3, 4), (5, 9), (5, 9))
    ]

    def made(attention: Tensor) -> Any:
        choices = ask(yours(prune_ratio=0.5, from_layer=1), attention)
        if all(choice is None or choice is ... for choice in choices):
            return None
        return [[] if not isinstance(c, Tensor) else c.int().tolist() for c in choices]

    def hints(found: Any, expected: Any, case: Any) -> str:
        attention = case[0]
        step = next((n for n, both in enumerate(zip(found, expected, strict=True)) if both[0] != both[1]), 0)
        said = f"At step {step} you chose {found[step]}, expected {expected[step]}."
        if found[step] == []:
            return f"{said} Choose at every step, from step 0 on."
        if found == [_largest(scores) for scores in attention]:
            return (
                f"{said} You take this step's attention alone, as dynamic pruning does: add the steps before."
            )
        if found == [_largest(attention.sum(0))] * len(attention):
            return f"{said} You know the whole answer's attention at its first step: that is the future."
        return f"{said} Sum step.scores over the steps of this answer, in step.memory."

    def reference(attention: Tensor) -> list[list[int]]:
        return [_largest(attention[: step + 1].sum(0)) for step in range(len(attention))]

    for attention, *_ in cases[1:]:  # what was answered before must not matter, nor what comes later
        try:
            alone, _, again = made(attention), made(attention.flip(0)), made(attention)
        except Exception:  # compare says which
            break
        if alone is not None and alone != again:
            return hint(
                "The same answer gets other tokens the second time: what you remember outlives the answer, "
                "and so knows its future. Keep it in step.memory, which begins empty with each answer."
            )
    return compare(made, reference, cases, hints, "It knows the past of this answer, and nothing else.")


def _largest(scores: Tensor) -> list[int]:
    order = sorted(range(len(scores)), key=lambda token: -float(scores[token]))
    kept = set(order[: (len(scores) + 1) // 2])
    return [int(token in kept) for token in range(len(scores))]


def beats_fastv(yours: Any, videos: int = 16) -> bool:
    """Write a class of your own (Selector) that chooses once, keeps as many tokens as FastV, and loses
    fewer words: mean of both worlds, P = 0.9, on test videos. Try it with rank(...,
    split="validation")."""
    from dycoke_lab.course.leaderboard import rank

    if (bad := _no_selector(yours)) is not None:
        return hint(bad)
    try:
        (choice,) = ask(yours(prune_ratio=0.5, from_layer=1), torch.tensor([[0.1, 0.4, 0.3, 0.2]]), frames=2)
        if choice is None or choice is ...:
            return hint(WRITE)
    except Exception:  # it may need what a step by hand has not
        pass
    table = rank({"yours": yours}, videos, beside=("fastv",)).set_index("method")
    own, other = table.loc["yours"], table.loc["one-shot, FastV"]
    if own["note"]:
        return hint(f"Your method {own['note']}.")
    if own["chooses"] != "once":
        return hint(
            "Your method chooses again at later steps: leave every_step = False, to compare one choice."
        )
    lost = f"it loses {own['points lost']:.1f} points, FastV {other['points lost']:.1f}"
    ahead = f"{own['ahead of FastV']:+.1f} points ahead [{own['low']:+.1f}, {own['high']:+.1f}]"
    if own["ahead of FastV"] > 0 and (own["ahead of FastV"] < LEAD or own["low"] <= 0):
        return hint(f"It is {ahead}: {lost}. That may be chance: be {LEAD:g} points ahead, interval above 0.")
    if own["points lost"] >= other["points lost"]:
        return hint(
            f"So far {lost}. FastV spends all on where the prompt's last token looks. Which later words are "
            "left with nothing? Give every frame a share (step.place.frame), or ask more of the prompt's "
            "queries (window)."
        )
    return right(f"On {videos} test videos of each world {lost}: {ahead}.")


def _no_selector(yours: Any) -> str | None:
    if isinstance(yours, Selector):
        return "Give the class itself, without brackets."
    if not (isinstance(yours, type) and issubclass(yours, Selector)):
        return f"Give a class that has Selector as its base, not {type(yours).__name__}."
    return None
