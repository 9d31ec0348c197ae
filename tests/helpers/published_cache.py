"""Loops for the published methods on the KV cache, and for ablations of dynamic pruning, from their
papers. Nothing here calls the library."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from helpers.oracles import Look, Rule, best, cosine


def snap_kv(look: Look, window: int, kernel: int) -> set[int]:
    """SnapKV, of one key head: each visual token's votes are what the last queries pay it, summed over
    them, mean over the query heads; then the mean with its neighbours, of `kernel` tokens in all, of which
    those that are not there have no votes."""
    return best(_with_neighbours(look, window, kernel), look.candidates, look.budget)


def _with_neighbours(look: Look, window: int, kernel: int) -> list[float]:
    heads = look.attention.tolist()
    rows = [row for head in heads for row in head[-window:]]
    votes = {v: sum(row[v] for row in rows) / len(heads) for v in look.candidates}
    pooled, reach = [0.0] * len(look.scores), kernel // 2
    for place, v in enumerate(look.candidates):
        near = look.candidates[max(0, place - reach) : place + reach + 1]
        pooled[v] = sum(votes[other] for other in near) / kernel
    return pooled


def pyramid_kv(look: Look, window: int, kernel: int, beta: int) -> set[int]:
    """SnapKV's votes, with a budget by layer."""
    place = look.pruned.index(look.layer)
    count = pyramid(look.budget, len(look.candidates), len(look.pruned), beta)[place]
    return best(_with_neighbours(look, window, kernel), look.candidates, count)


def pyramid(mean: int, total: int, layers: int, beta: int) -> list[int]:
    """Each layer's budget: a straight line from 2 * mean - mean // beta to mean // beta, to the nearest,
    halves away from the mean; flat where twice the mean is more than there is, or in a single layer."""
    if 2 * mean > total or layers == 1:
        return [mean] * layers
    last = mean // beta
    first, budgets = 2 * mean - last, []
    for layer in range(layers):
        exact = ((layers - 1 - layer) * first + layer * last) / (layers - 1)
        away = math.floor(abs(exact - mean) + 0.5 + 1e-9)
        budgets.append(mean + away if exact > mean else mean - away)
    return budgets


def _left(look: Look, answer_counts: bool) -> int:
    """The budget of this step: as text and answer stay, each step's token takes a place."""
    if not answer_counts:
        return look.budget
    return max(min(look.budget, 1), look.budget - look.number)


def tova(look: Look, answer_counts: bool) -> set[int] | None:
    """Of the tokens still there, those that the last one attends to most."""
    if look.selected is not None and not answer_counts:
        return None
    return best(look.scores, look.candidates, _left(look, answer_counts))


def h2o(look: Look, heavy_share: float, window: int, answer_counts: bool) -> set[int] | None:
    """Half of the budget for the last visual tokens, half for those with most attention so far among the
    others."""
    if look.selected is not None and not answer_counts:
        return None
    received = look.memory.setdefault("received", [0.0] * len(look.scores))
    heads = look.attention.tolist()
    for head in heads:
        for row in head[-window:]:
            for v in look.candidates:
                received[v] += row[v] / len(heads)
    count = _left(look, answer_counts)
    heavy = math.floor(heavy_share * count + 0.5 + 1e-9)
    split = len(look.candidates) - (count - heavy)
    return best(received, look.candidates[:split], heavy) | set(look.candidates[split:])


def streaming_llm(look: Look, n_sink: int, answer_counts: bool) -> set[int] | None:
    """The first tokens, and then, from the end, as many as there is room for."""
    if look.selected is not None and not answer_counts:
        return None
    order = look.candidates[:n_sink] + look.candidates[n_sink:][::-1]
    return set(order[: _left(look, answer_counts)])


def quest(look: Look, page_size: int) -> set[int] | None:
    """Pages by the bound of what their keys and this step's query have in common, summed over heads."""
    if look.number == 0:
        return None
    keys, queries = look.keys.tolist(), look.queries.tolist()  # type: ignore[union-attr]
    group = len(queries) // len(keys)
    bounds = []
    pages = [look.candidates[n : n + page_size] for n in range(0, len(look.candidates), page_size)]
    for page in pages:
        bound = 0.0
        for head, query in enumerate(queries):
            for channel, q in enumerate(query):
                column = [keys[head // group][v][channel] for v in page]
                bound += max(q * min(column), q * max(column))
        bounds.append(bound)
    found: list[int] = []
    for _, page in sorted(zip(bounds, pages, strict=True), key=lambda pair: -pair[0]):
        found += page
    return set(found[: look.budget])


def ablation(
    look: Look,
    reselect_below: float,
    heads: str = "mean",
    reselect_every: int | None = None,
    mass: float | None = None,
) -> set[int] | None:
    """DyCoke's second stage, with other choices."""
    if look.number == 0:
        return None
    if reselect_every is not None:
        if look.number % reselect_every != 1 % reselect_every:
            return None
    elif look.number > 1 and cosine(look.scores, look.previous or []) >= reselect_below:
        return None
    ranks = look.scores
    if heads == "max":
        ranks = [max(head[-1][v] for head in look.attention.tolist()) for v in range(len(look.scores))]
    if mass is None:
        return best(ranks, look.candidates, look.budget)
    total, held, found = sum(ranks[v] for v in look.candidates), 0.0, set()
    for v in sorted(look.candidates, key=lambda v: (-ranks[v], v)):
        if found and held >= (mass - 1e-6) * total:
            break
        found.add(v)
        held += ranks[v]
    return found


LOOPS = {
    "SnapKV": (snap_kv, "head", ("window", "kernel")),
    "PyramidKV": (pyramid_kv, "head", ("window", "kernel", "beta")),
    "TOVA": (tova, "layer", ("answer_counts",)),
    "H2O": (h2o, "head", ("heavy_share", "window", "answer_counts")),
    "StreamingLLM": (streaming_llm, "layer", ("n_sink", "answer_counts")),
    "Quest": (quest, "shared", ("page_size",)),
    "DynamicAblation": (ablation, "shared", ("reselect_below", "heads", "reselect_every")),
    "DynamicMass": (ablation, "shared", ("reselect_below", "heads", "reselect_every", "mass")),
}


def rule_of(selector: Any) -> Rule:
    """Return the loops that a selector of this group must equal."""
    loops, scope, names = LOOPS[type(selector).__name__]
    choose: Any = partial(loops, **{name: getattr(selector, name) for name in names})
    returns = scope == "shared" and selector.inactive != "evict"
    again = returns or (scope != "shared" and "answer_counts" in names)
    return Rule(choose, selector.from_layer, selector.prune_ratio, scope, returns, every_step=again)
