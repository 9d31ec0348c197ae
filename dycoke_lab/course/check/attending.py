"""Exercises of notebook 02; `tokens_and_attention` has them with those of 00 and 01."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.course.check.verdict import Case, compare, same


def attend(yours: Any) -> bool:
    """`attend(query, keys, visible)`: what one query pays each place. query: (dim,); keys: (places, dim);
    visible: (places,), False where it must not look."""
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
    return [weight / sum(weights) for weight in weights]


def _about_attend(found: Any, expected: Any, case: Case) -> str:
    query, keys, visible = case
    scores = keys @ query / len(query) ** 0.5
    percent = ", ".join(f"{100 * value:.1f}" for value in expected)
    what = f"q = {short(query)}, {len(keys)} keys, visible {visible.tolist()}: {percent} % is right."
    if same(found, (scores * len(query) ** 0.5).masked_fill(~visible, -torch.inf).softmax(0)):
        return f"{what} Divide the products by the root of the dimension, {len(query)}."
    if same(found, scores.softmax(0)):
        return f"{what} Hidden places must get nothing: set their scores to -inf before the softmax."
    if same(found, scores.softmax(0) * visible) or same(found, (scores * visible).softmax(0)):
        return f"{what} Hide a place before the softmax, by the score -inf: 0 is a score like any other."
    return f"{what} Products q.k / sqrt(dim), then exp, then divide by their sum. Yours: {short(found)}."


def tokens_for(yours: Any) -> bool:
    """`tokens_for(attention, share)`: the smallest number of visual tokens that hold at least this share of
    the attention within the video. attention: (visual,), a step's; it need not add up to 1."""
    cases = [
        (torch.tensor([4.0, 2.0, 1.0, 1.0]) / 8, 0.5),
        (torch.tensor([1.0, 1.0, 4.0, 2.0]) / 8, 0.75),
        (torch.tensor([1.0, 1.0, 4.0, 2.0]) / 8, 0.8),
        (torch.tensor([1.0, 1.0, 1.0, 1.0]) / 16, 0.75),
        (torch.tensor([1.0, 8.0, 1.0, 4.0, 2.0]) / 32, 0.9),
    ]
    done = "The more even attention is, the more tokens it takes."
    return compare(yours, _tokens_for, cases, _about_tokens_for, done)


def _tokens_for(attention: Tensor, share: float) -> int:
    held, count, total = 0.0, 0, float(attention.sum())
    for value in sorted(attention.tolist(), reverse=True):
        if held >= share * total:
            break
        held, count = held + value, count + 1
    return count


def _about_tokens_for(found: Any, expected: Any, case: Case) -> str:
    attention, share = case
    total = float(attention.sum())
    what = f"attention {short(attention)}, share {share}: you found {short(found)}, not {expected}."
    if total < 1 and not same(found, expected) and same(found, _tokens_for(attention, share / total)):
        return f"{what} The share is of what the video gets, which is {100 * total:.0f} % here, not 100 %."
    running = (attention.cumsum(0) >= share * total).nonzero()
    if len(running) and same(found, int(running[0]) + 1):
        return f"{what} Take the strongest tokens first: sort."
    if same(found, expected - 1) or same(found, expected + 1):
        return f"{what} One off: after `cumsum`, the first place where the share is reached has number 0."
    return f"{what} Sort, strongest first, add up, and count until the share is reached."


def frame_shares(yours: Any) -> bool:
    """`frame_shares(attention, per_frame)`: % of a step's attention within the video that each frame gets.
    attention: (visual,), frame after frame, `per_frame` tokens each."""
    cases = [
        (torch.tensor([1.0, 2.0, 3.0, 2.0]) / 8, 2),
        (torch.tensor([1.0, 2.0, 3.0, 2.0, 0.0, 8.0]) / 32, 3),
        (torch.tensor([1.0, 2.0, 3.0, 2.0, 0.0, 8.0]) / 32, 2),
    ]
    done = "A row of the map above is such a list."
    return compare(yours, _frame_shares, cases, _about_frame_shares, done)


def _frame_shares(attention: Tensor, per_frame: int) -> list[float]:
    values = attention.tolist()
    frames = [values[start : start + per_frame] for start in range(0, len(values), per_frame)]
    return [100 * sum(frame) / sum(values) for frame in frames]


def _about_frame_shares(found: Any, expected: Any, case: Case) -> str:
    attention, per_frame = case
    right = torch.tensor(expected)
    what = f"attention {short(attention)}, {per_frame} tokens a frame: "
    what += f"you found {short(found)}, not {short(right)}."
    if same(found, right / 100):
        return f"{what} In %: times 100."
    if same(found, right * attention.sum()) or same(found, right * attention.sum() / 100):
        return f"{what} Divide by what the whole video gets, {100 * float(attention.sum()):.0f} % here."
    if same(found, 100 * attention.view(per_frame, -1).sum(0) / attention.sum()):
        return f"{what} A frame's tokens follow each other: `view(-1, per_frame)`, then sum each row."
    return f"{what} Sum the tokens of each frame, and divide by the sum of all."


def short(value: Any) -> str:
    """Write an answer in a few characters."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(part, int | float) for part in value):
        return "[" + ", ".join(f"{part:.3g}" for part in value) + "]"
    return str(value)[:80]
