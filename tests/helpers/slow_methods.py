"""For each registered method the loops that it must equal."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from dycoke_lab.methods import METHODS, Compression, Merger, PrefillReducer, Selector
from helpers.oracles import Rule, Slow, dynamic, keep_share, layer_vote, once, reference_code, temporal


def seams_of(compression: Any) -> tuple[Any, Any, Any]:
    """Return the merger, the reducer and the selector of a compression, or of a method alone."""
    if isinstance(compression, Compression):
        return compression.merger, compression.reducer, compression.selector
    return tuple(
        compression if isinstance(compression, kind) else None for kind in (Merger, PrefillReducer, Selector)
    )


def slow_version(compression: Any, batch: int, visual: int) -> Slow:
    """Return the loops that a compression of registered methods must equal."""
    merger, reducer, selector = seams_of(compression)
    slow: dict[str, Any] = {}
    if merger is not None:
        ratio = None if merger.threshold is not None else merger.merge_ratio
        slow = dict(
            merge=partial(
                temporal,
                window=merger.window,
                ratio=ratio,
                threshold=merger.threshold,
                reference=merger.reference,
            ),
            average=merger.combine == "average",
            repacked=merger.positions == "repacked",
        )
    if reducer is not None:
        slow["reduce"] = {reducer.from_layer: partial(keep_share, share=1 - reducer.prune_ratio)}
    if selector is not None:
        slow["rule"] = _rule_of(selector, batch, visual)
    return Slow(**slow)


def _rule_of(selector: Any, batch: int, visual: int) -> Rule:
    (name,) = (name for name, kind in METHODS.items() if kind is type(selector))
    about = selector.from_layer, selector.prune_ratio
    if name in ("dynamic", "reference_code", "layer_vote"):
        choose_ = {"dynamic": dynamic, "reference_code": reference_code, "layer_vote": layer_vote}[name]
        returns = selector.inactive != "evict"
        rule: Any = partial(choose_, reselect_below=selector.reselect_below)
        votes = name == "layer_vote"
        if votes:
            rule = partial(rule, sharpness=selector.sharpness)
        return Rule(
            rule, *about, returns=returns, every_step=returns, layers_below=3 if votes else 1, foresees=votes
        )
    noise = torch.rand(batch, visual, generator=torch.Generator().manual_seed(getattr(selector, "seed", 0)))
    if name == "hindsight":
        noise = selector.future
    return Rule(partial(once, name=name, noise=noise.tolist()), *about)
