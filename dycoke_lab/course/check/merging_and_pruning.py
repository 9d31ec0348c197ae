"""Exercises of notebooks 06 to 08."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.course.check.choice_or_moment import choose_by_hindsight, only_one_right, points_lost
from dycoke_lab.course.check.hints import as_sets, cosine, first_known, listed, product, shown
from dycoke_lab.course.check.verdict import Case, compare, same

__all__ = [
    "active_count",
    "choose_by_hindsight",
    "dynamic_step",
    "merged_by_threshold",
    "only_one_right",
    "points_lost",
    "selects_anew",
    "token_cosine",
    "tokens_left",
]
WINDOW = 4


def token_cosine(yours: Any) -> bool:
    """token_cosine(one, other): the cosine similarity of two tokens, lists of numbers."""
    random = torch.Generator().manual_seed(6)
    drawn = [tuple(torch.randn(2, 5, generator=random).tolist()) for _ in range(6)]
    cases: list[Case] = [([3.0, 4.0], [6.0, 8.0]), ([3.0, 4.0], [4.0, 3.0]), ([1.0, 0.0], [0.0, 2.0]), *drawn]

    def hints(found: Any, expected: Any, case: Case) -> str:
        one, other = case
        dot, a, b = product(one, other), math.sqrt(product(one, one)), math.sqrt(product(other, other))
        why = first_known(
            found,
            (dot, "This is the sum of products. Divide it by the lengths of both tokens."),
            (dot / a, "Divide by the lengths of both tokens, not of the first alone."),
            (dot / b, "Divide by the lengths of both tokens, not of the second alone."),
            (dot / (a * b) ** 2, "A length is the square root of the sum of squares."),
            (1 - expected, "This is the distance, 1 - cosine."),
        )
        return f"For {listed(one)} and {listed(other)} you found {shown(found)}; it is {expected:.3g}. {why}"

    return compare(yours, cosine, cases, hints, "Only the direction counts: a token and its double have 1.")


def tokens_left(yours: Any) -> bool:
    """tokens_left(frames, tokens, merge_ratio): how many tokens merging retains of a video, in windows of
    four frames."""

    def later(tokens: int, ratio: float) -> int:
        return math.floor((1 - ratio) * tokens + 0.5 + 1e-9)

    def reference(frames: int, tokens: int, ratio: float) -> int:
        return sum(tokens if frame % WINDOW == 0 else later(tokens, ratio) for frame in range(frames))

    def hints(found: Any, expected: Any, case: Case) -> str:
        frames, tokens, ratio = case
        firsts = -(-frames // WINDOW)
        down, gone = math.floor((1 - ratio) * tokens + 1e-9), math.floor(ratio * tokens + 0.5)
        why = first_known(
            found,
            (frames * later(tokens, ratio), "The first frame of a window is retained whole."),
            (
                tokens + (frames - 1) * later(tokens, ratio),
                "Each window has a first frame, not the video alone: frames 0, 4, 8, ... are retained whole.",
            ),
            (firsts * tokens + (frames - firsts) * gone, "K is the share that is merged away."),
            (firsts * tokens + (frames - firsts) * down, "Round to the nearest whole token, not down."),
            (expected - firsts * tokens, "Count the first frames of the windows, too."),
            (round((1 - 0.75 * ratio) * frames * tokens), "Round in each frame, not once at the end."),
        )
        return (
            f"{frames} frames of {tokens} tokens at K = {ratio:g}: you found {shown(found)}; "
            f"{expected} are left. {why}"
        )

    cases: list[Case] = [(4, 16, 0.5), (4, 16, 0.7), (8, 36, 0.7), (6, 16, 0.5), (1, 9, 0.9), (13, 196, 0.3)]
    return compare(
        yours, reference, [*cases, (32, 196, 0.7), (5, 16, 0.0)], hints, "So K = 1 leaves a quarter."
    )


def merged_by_threshold(yours: Any) -> bool:
    """merged_by_threshold(features, threshold): which tokens of one window of four frames a threshold merges
    away. features: (4, tokens, numbers). Returns (4, tokens), True where merged away."""

    def by(references: list[int]) -> Callable[[Tensor, float], Tensor]:
        def merged(features: Tensor, threshold: float) -> Tensor:
            rows = [[False] * features.shape[1]]
            for frame, earlier in enumerate(references, 1):
                pairs = zip(features[frame].tolist(), features[earlier].tolist(), strict=True)
                rows.append([cosine(one, other) >= threshold for one, other in pairs])
            return torch.tensor(rows)

        return merged

    reference, before, first = by([0, 0, 2]), by([0, 1, 2]), by([0, 0, 0])
    random = torch.Generator().manual_seed(8)
    cases: list[Case] = []
    while len(cases) < 8:
        features = torch.randn(1, 5, 3, generator=random) + 0.6 * torch.randn(4, 5, 3, generator=random)
        case = (features, 0.9)
        if len({tuple(rule(*case).flatten().tolist()) for rule in (reference, before, first)}) == 3:
            cases.append(case)

    def hints(found: Any, expected: Any, case: Case) -> str:
        why = "True marks a token whose cosine with its reference is at least the threshold."
        for rule, text in (
            (before, "Frame 2 is compared with frame 0, not with frame 1."),
            (first, "Frame 3 is compared with frame 2, not with frame 0."),
        ):
            if same(found, rule(*case)):
                why = text
        if same(found, ~expected):
            why = "True marks a token that is merged away; you mark those that are retained."
        elif same(found, torch.cat([~expected[:1], expected[1:]])):
            why = "Frame 0 is the first of the window: it is retained whole."
        elif not isinstance(found, Tensor) or found.shape != expected.shape:
            why = f"Return a tensor of shape {tuple(expected.shape)}: frames, tokens."
        count = int(expected.sum())
        return f"In the first window that differs, {count} of {expected.numel()} are merged away. {why}"

    done = "Unlike a ratio, a threshold takes as much as repeats, and nothing of a new scene."
    return compare(yours, reference, cases, hints, done)


def active_count(yours: Any) -> bool:
    """active_count(retained, prune_ratio): how many tokens a step keeps active."""

    def reference(retained: int, ratio: float) -> int:
        return max(1, math.floor((1 - ratio) * retained + 0.5 + 1e-9))

    def hints(found: Any, expected: Any, case: Case) -> str:
        retained, ratio = case
        why = first_known(
            found,
            (0, "At least one token stays active."),
            (round(ratio * retained), "P is the share that becomes inactive; the others are active."),
            (math.floor((1 - ratio) * retained + 1e-9), "Round to the nearest whole token, not down."),
            (math.ceil((1 - ratio) * retained - 1e-9), "Round to the nearest whole token, not up."),
            ((1 - ratio) * retained, "Round to a whole token."),
        )
        return f"{retained} tokens, P = {ratio:g}: you found {shown(found)}; {expected} are active. {why}"

    cases: list[Case] = [(10, 0.7), (93, 0.9), (128, 0.9), (6, 2 / 3), (5, 0.95), (16, 0.0), (3038, 0.7)]
    return compare(
        yours, reference, cases, hints, "The number is the same at every step; the tokens are not."
    )


def dynamic_step(yours: Any) -> bool:
    """dynamic_step(scores, before, budget): one step of dynamic pruning. scores: a number for each token.
    before: the set of tokens active at the step before. Returns three sets: active, left, came."""

    def reference(scores: list[float], before: set[int], budget: int) -> dict[str, set[int]]:
        order = sorted(range(len(scores)), key=lambda token: -scores[token])
        active = set(order[:budget])
        return {"active": active, "left": before - active, "came": active - before}

    def hints(found: Any, expected: Any, case: Case) -> str:
        scores, before, _ = case
        start = f"scores {listed(scores)}, active before {before}:"
        if not isinstance(found, dict):
            return "Return three sets of token numbers: active, left, came."
        if found["active"] == expected["active"]:
            name = "left" if found["left"] != expected["left"] else "came"
            return (
                f"{start} {name} is {expected[name] or 'empty'}; you found {found[name] or 'an empty set'}."
            )
        missed = expected["active"] - found["active"]
        why = f"active is {expected['active']}; yours is {found['active'] or 'empty'}."
        if found["active"] <= before and missed:
            why += f" Token {min(missed)} was inactive, and is among the highest now: it can return."
        elif before < found["active"]:
            why += " Tokens that are not among the highest leave."
        elif len(found["active"]) != len(expected["active"]):
            why += " Keep as many as the budget says."
        else:
            why += " Keep the highest scores of this step."
        return f"{start} {why}"

    random = torch.Generator().manual_seed(7)
    cases: list[Case] = [([0.05, 0.4, 0.25, 0.1, 0.1, 0.1], {0, 2}, 2)]
    for _ in range(8):
        scores = torch.randperm(7, generator=random).add(1).div(28).tolist()
        cases.append((scores, set(torch.randperm(7, generator=random)[:3].tolist()), 3))
    done = "Whatever left can come back: its keys and values are still there."
    return compare(as_sets(yours), reference, cases, hints, done)


def selects_anew(yours: Any) -> bool:
    """selects_anew(attention, below): at which steps dynamic pruning selects anew. attention: (steps,
    tokens), of the decoding steps 1, 2, ... Returns their numbers in a list."""

    def reference(attention: Tensor, below: float) -> list[int]:
        rows = attention.tolist()
        moved = (n for n in range(1, len(rows)) if cosine(rows[n], rows[n - 1]) < below)
        return [1, *(n + 1 for n in moved)]

    def since_last(attention: Tensor, below: float) -> list[int]:
        rows, made = attention.tolist(), [0]
        for number in range(1, len(rows)):
            if cosine(rows[number], rows[made[-1]]) < below:
                made.append(number)
        return [number + 1 for number in made]

    def hints(found: Any, expected: Any, case: Case) -> str:
        attention, below = case
        kept = [number for number in range(2, len(attention) + 1) if number not in expected]
        why = first_known(
            found,
            (since_last(*case), "Compare with the step before, whether or not it selected anew."),
            (expected[1:], "Step 1 always selects: nothing has been selected before it."),
            ([number - 1 for number in expected], "The first row is step 1."),
            ([1, *kept], "A step selects anew if the cosine is below the threshold: if attention has moved."),
            (kept, "A step selects anew if the cosine is below the threshold: if attention has moved."),
        )
        return (
            f"{len(attention)} steps, threshold {below:g}: it is {expected}; you found {shown(found)}. {why}"
        )

    angles = torch.tensor([[0.0, 20, 40, 60, 80], [0, 5, 70, 75, 10], [0, 80, 5, 10, 15]]).deg2rad()
    turning = [torch.stack([row.cos(), row.sin()], 1) for row in angles]
    drawn = torch.rand(4, 6, 4, generator=torch.Generator().manual_seed(9)).softmax(-1) ** 3
    cases: list[Case] = [(turning[1], 0.9), (turning[0], 0.9), (turning[2], 0.9)]
    cases += [(rows, 0.9) for rows in drawn] + [(drawn[0], 2.0), (drawn[0], -1.0)]
    return compare(yours, reference, cases, hints, "A threshold of 2 selects at every step, -1 once.")
