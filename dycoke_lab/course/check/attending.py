"""Exercises of notebook 02; `tokens_and_attention` has them with those of 00 and 01."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.course.check.verdict import Case, compare, same


def attend(yours: Any) -> bool:
    """`attend(query, keys, visible)`: what one query pays each place, in %. query: (dim,);
    keys: (places, dim); visible: (places,), False where it must not look."""
    draw = torch.Generator().manual_seed(0)
    yes = torch.ones(4, dtype=torch.bool)
    cases = [(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [0.0, 2.0]]), yes[:2])]
    for dim in (4, 9):
        keys = torch.randn(4, dim, generator=draw)
        query = torch.randn(dim, generator=draw)
        cases += [(query, keys, yes), (query, keys, torch.tensor([True, False, True, False]))]
    done = "Hidden places get nothing, and the others all of it: 100 % in sum."
    return compare(yours, _attend, cases, _about_attend, done)


def _attend(query: Tensor, keys: Tensor, visible: Tensor) -> list[float]:
    weights = []
    for key, seen in zip(keys, visible.tolist(), strict=True):
        product = sum(float(a) * float(b) for a, b in zip(query, key, strict=True))
        weights.append(math.exp(product / math.sqrt(len(query))) if seen else 0.0)
    return [100 * weight / sum(weights) for weight in weights]


def _about_attend(found: Any, expected: Any, case: Case) -> str:
    query, keys, visible = case
    scores = keys @ query / len(query) ** 0.5
    hidden = [place for place, seen in enumerate(visible.tolist()) if not seen]
    what = f"{len(keys)} places, hidden: {hidden or 'none'}; {len(query)} numbers a key: "
    what += f"you found {short(found)}, not {short(torch.tensor(expected))}."
    if same(found, torch.tensor(expected) / 100):
        return f"{what} In %: times 100."
    if matches(found, (scores * len(query) ** 0.5).masked_fill(~visible, -torch.inf).softmax(0)):
        return f"{what} Divide each product q.k by sqrt({len(query)})."
    if matches(found, scores.softmax(0)):
        return f"{what} Hidden places must get 0 %: set their scores to -torch.inf before the softmax."
    if matches(found, scores.softmax(0) * visible) or matches(found, (scores * visible).softmax(0)):
        return f"{what} Do not multiply by 0: set hidden scores to -torch.inf before the softmax."
    return f"{what} Three lines: q.k / sqrt({len(query)}); hide; softmax. Then times 100."


def matches(found: Any, attention: Tensor) -> bool:
    """Return whether an answer is this attention, 0 to 1 or in %."""
    return same(found, attention) or same(found, 100 * attention)


def frame_shares(yours: Any) -> bool:
    """`frame_shares(attention, per_frame)`: % of a step's attention within the video that each frame gets.
    attention: (visual,), in %, frame after frame, `per_frame` tokens each."""
    cases = [
        (torch.tensor([10.0, 20.0, 50.0, 20.0]), 2),
        (torch.tensor([10.0, 0.0, 20.0, 10.0, 10.0, 0.0]), 3),
        (torch.tensor([10.0, 0.0, 20.0, 10.0, 10.0, 0.0]), 2),
    ]
    done = "A row of the map above is such a list."
    return compare(yours, _frame_shares, cases, _about_frame_shares, done)


def _frame_shares(attention: Tensor, per_frame: int) -> list[float]:
    values = attention.tolist()
    frames = [values[start : start + per_frame] for start in range(0, len(values), per_frame)]
    return [100 * sum(frame) / sum(values) for frame in frames]


def _about_frame_shares(found: Any, expected: Any, case: Case) -> str:
    attention, per_frame = case
    right, total = torch.tensor(expected), float(attention.sum())
    what = f"attention {short(attention)} %, {per_frame} tokens a frame: "
    what += f"you found {short(found)}, not {short(right)}."
    if same(found, right / 100):
        return f"{what} In %: times 100."
    if same(found, right * total / 100) or same(found, right * total):
        return f"{what} The video gets only {total:.0f} % of all attention: divide by that."
    if same(found, 100 * attention.view(per_frame, -1).sum(0) / total):
        return f"{what} A frame's tokens follow each other: `view(-1, per_frame)`, then sum each row."
    return f"{what} Sum the tokens of each frame, and divide by the sum of all."


def short(value: Any) -> str:
    """Write an answer in a few characters."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        value = [part.tolist() if isinstance(part, Tensor) else part for part in value]
    if isinstance(value, list) and all(isinstance(part, int | float) for part in value):
        return "[" + ", ".join(f"{part:.3g}" for part in value) + "]"
    return str(value)[:80]
