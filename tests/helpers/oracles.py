"""Slow, obvious versions of each piece of a method, from the papers; nothing here calls the library."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / max(math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)), 1e-8)


def merge(
    features: Tensor,
    window: int,
    ratio: float | None = None,
    threshold: float | None = None,
    reference: str = "paper",
) -> dict[int, int]:
    """Return every token's destination, token by token: frames in windows, the first frame whole, frame 2
    against 1, 3 against 1, 4 against 3, and so on; or all against the window's first, or the one before.
    features: (frames, tokens, dim)."""
    frames, tokens, _ = features.shape
    values = features.double().tolist()
    into: dict[int, int] = {}
    for f in range(frames):
        place = f % window + 1  # 1, 2, 3, 4 as the paper counts
        if place == 1:
            into.update({f * tokens + t: f * tokens + t for t in range(tokens)})
            continue
        earlier = f - 1 if place % 2 == 0 else f - 2
        if reference == "first":
            earlier = f - place + 1
        elif reference == "previous":
            earlier = f - 1
        close = {t: cosine(values[f][t], values[earlier][t]) for t in range(tokens)}
        if threshold is not None:
            gone = {t for t in close if close[t] >= threshold - 1e-6}  # as `temporal_merge` says
        else:
            kept = math.floor((1 - (ratio or 0)) * tokens + 0.5 + 1e-9)
            gone = set(sorted(close, key=lambda t: (-close[t], t))[: tokens - kept])
        for t in range(tokens):
            into[f * tokens + t] = into[earlier * tokens + t] if t in gone else f * tokens + t
    return into


def best(scores: list[float], candidates: list[int], count: int) -> set[int]:
    """The `count` candidates with the highest scores; of equal scores the earlier token wins."""
    return set(sorted(candidates, key=lambda v: (-scores[v], v))[:count])


def share_of(total: int, share: float) -> int:
    """A share of so many tokens, to the nearest, halves up; at least 1, if there is one."""
    return min(total, max(1, math.floor(share * total + 0.5 + 1e-9)))


def choose(scores: list[float], alive: list[int], share: float) -> set[int]:
    return best(scores, alive, share_of(len(alive), share))


@dataclass
class Look:
    """What one choice may use: one batch element's, and one layer's or key head's if each has its own.

    element: the number of the batch element. number: 0 at the prompt's end, then that of the step. scores:
    each visual token's attention from the step's last row, mean over heads, and over the layers that score.
    attention: (heads, rows, visual), of all this step's rows. keys: (key heads, visual, dim).
    by_layer: the scores of each layer that scores. above: of the pruned layers at the prompt's end, their
    mean. layer: the one whose attention this is. pruned: those that are pruned. queries: (heads, dim), of the
    step's last row.
    """

    element: int
    number: int
    scores: list[float]
    previous: list[float] | None
    attention: Tensor
    keys: Tensor
    candidates: list[int]
    budget: int
    selected: set[int] | None
    memory: dict[str, Any] = field(default_factory=dict)
    by_layer: list[list[float]] = field(default_factory=list)
    above: list[float] | None = None
    layer: int = 0
    pruned: list[int] = field(default_factory=list)
    queries: Tensor | None = None


@dataclass(frozen=True)
class Rule:
    """A selector. choose: which tokens are attended to from now on, None for no change.

    scope: "shared", the attention of layer from_layer - 1 chooses for the layers from from_layer on, which
    attend to it in this same step; "layer" and "head": each of those layers, or key heads, chooses by its own
    attention, from the next decoding step on. returns: unselected tokens stay candidates.
    every_step: it is asked again after it has chosen. layers_below: so many layers below from_layer score.
    foresees: it is told what the pruned layers attend to at the prompt's end.
    """

    choose: Callable[[Look], set[int] | None]
    from_layer: int
    prune_ratio: float
    scope: str = "shared"
    returns: bool = False
    every_step: bool = False
    layers_below: int = 1
    foresees: bool = False


@dataclass
class Video:
    """features: (frames, rows, cols, dim). number: of the video in the batch. text: the prompt's, (tokens,
    dim)."""

    features: Tensor
    number: int
    text: Tensor


@dataclass
class Stage:
    """hidden: the visual tokens' hidden states before a layer, (visual, dim). scores: their attention from
    the prompt's last token in the layer below, none below layer 0. present: those that are still there.

    layer, depth: the layer, of so many. place: of each token its video, frame in that video, row, column.
    text: the attention of all prompt tokens after the last video in the layer below, (heads, rows, visual).
    memory: of this batch element, through all layers.
    """

    hidden: Tensor
    scores: list[float]
    present: list[int]
    layer: int = 0
    depth: int = 0
    place: list[tuple[int, int, int, int]] = field(default_factory=list)
    text: Tensor | None = None
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Slow:
    """A compression as loops know it.

    merge: for each token of a video itself, the one it is merged into, or -1. average: a token becomes the
    mean of all merged into it. features: new features of a video's tokens, (tokens, dim).
    reduce: the same before layers of the prefill, with `average`, too; or with new features of the tokens.
    """

    merge: Callable[[Video], list[int]] | None = None
    average: bool = False
    features: Callable[[Video], Tensor] | None = None
    repacked: bool = False
    reduce: dict[int, Callable[[Stage], list[int] | tuple[list[int], Tensor]]] = field(default_factory=dict)
    rule: Rule | None = None


def temporal(
    video: Video, window: int, ratio: float | None, threshold: float | None, reference: str = "paper"
) -> list[int]:
    """DyCoke's first stage, as `Slow.merge`."""
    into = merge(video.features.flatten(1, 2), window, ratio, threshold, reference)
    return [into[token] for token in range(len(into))]


def keep_share(stage: Stage, share: float) -> list[int]:
    """FastV: keep the share with the highest scores, as `Slow.reduce`."""
    stays = choose(stage.scores, stage.present, share)
    return [token if token in stays else -1 for token in range(len(stage.scores))]


def dynamic(look: Look, reselect_below: float) -> set[int] | None:
    """DyCoke's second stage: choose anew where the attention has moved."""
    if look.number == 0:
        return None
    if look.number > 1 and cosine(look.scores, look.previous or []) >= reselect_below:
        return None
    return best(look.scores, look.candidates, look.budget)


def reference_code(look: Look, reselect_below: float) -> set[int] | None:
    """What the published code does: a step whose attention has not moved attends to everything."""
    if look.number == 0:
        return None
    if look.number > 1 and cosine(look.scores, look.previous or []) >= reselect_below:
        return set(look.candidates)
    return best(look.scores, look.candidates, look.budget)


def layer_vote(look: Look, reselect_below: float, sharpness: float) -> set[int] | None:
    """Dynamic pruning by a weighted mean of layers: each weighs what it had in common, at the prompt's end,
    with the layers that are pruned."""
    if look.number == 0:
        look.memory["prompt"] = look.by_layer
        return None
    if look.number > 1 and cosine(look.scores, look.previous or []) >= reselect_below:
        return None
    ranks = [0.0] * len(look.scores)
    close = [max(0.0, cosine(prompt, look.above or [])) for prompt in look.memory["prompt"]]
    for one, scores in zip(close, look.by_layer, strict=True):
        weight = (one / max(close) if max(close) else 1.0) ** sharpness
        ranks = [rank + weight * score / sum(scores) for rank, score in zip(ranks, scores, strict=True)]
    return best(ranks, look.candidates, look.budget)


def once(look: Look, name: str, noise: list[list[float]]) -> set[int] | None:
    """A choice made once. noise: for each batch element what decides, where the attention does not."""
    if look.number != (1 if name == "first_step" else 0):
        return None
    count, there = look.budget, look.candidates
    if name in ("last_query", "first_step"):
        return best(look.scores, there, count)
    if name in ("random", "hindsight"):
        return best(noise[look.element], there, count)
    if name == "keep_none":
        return set()
    if name == "keep_first":
        return set(there[:count])
    if name == "uniform":
        return {there[math.ceil(bucket * len(there) / count)] for bucket in range(count)}
    raise ValueError(f"method={name!r}: say here what it chooses")
