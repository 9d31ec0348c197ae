"""FrameFusion (arXiv 2501.01986): merge what is similar in consecutive frames in the first layers, then prune
once by attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.scores import top, unit_vectors


@dataclass(frozen=True)
class FrameFusion(PrefillReducer):
    """Average the tokens of a patch that stay similar from frame to frame, layer by layer, until few are left
    that do; then keep what the prompt's last token attends to most.

    prune_ratio: 1 - the paper's cost (.3): the cost is the share of visual tokens, mean over all layers. What
        the layers so far have used up decides how many are left.
    similarity: the least cosine to merge, -1 to 1; the paper's is .6 (.5 for Qwen2-VL).
    ratio_bound: merging ends in the layer where a smaller share of the tokens can be merged; the paper's .1.
    from_layer: the first layer before which it merges; the layers below count as full ones.
    Before each layer with so many mergeable tokens that the rest of the layers can have what is left of the
    cost, only the most similar are merged, and that is all. Numbers of tokens to the nearest, halves up, at
    least 1 (the code: int and round).

    Differs: it acts before layers, where the code does between attention and MLP. The code's cost is of 28
    layers whatever the model has, and one that is used up is an error; here 1 token is left then. Cosines are
    rounded to 6 decimals, so that ties go to the earlier token. Tokens of several videos are not merged.
    """

    prune_ratio: float = 0.7
    from_layer: int = 0
    similarity: float = 0.6
    ratio_bound: float = 0.1

    label: ClassVar[str] = "FrameFusion"
    colour: ClassVar[str] = "#7d1d2f"
    paper: ClassVar[str] = "arXiv 2501.01986, 4"
    knob: ClassVar[str] = "prune_ratio"
    first_layer: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("similarity", -1), ("ratio_bound", 0)):
            value = getattr(self, name)
            if not isinstance(value, Real) or not least <= value <= 1:
                raise ValueError(f"{name}={value!r} must lie between {least} and 1")

    def layers(self, depth: int) -> Sequence[int]:
        return range(self.from_layer, depth)

    def reduce(self, state: LayerState) -> Assignment | None:
        there, memory = state.candidates, state.memory
        present = there.sum(1)
        if not memory:
            memory["all"], memory["spent"] = present.clamp(min=1), present * float(state.layer)
            memory["merges"], memory["prunes"] = present > 0, torch.zeros_like(present, dtype=torch.bool)
        merges, prunes = memory["merges"], memory["prunes"]
        if not bool((merges | prunes).any()):
            return None
        total = (1 - float(self.prune_ratio)) * state.depth * memory["all"].double()
        share = (total - memory["spent"]) / (state.depth - state.layer)
        target = (share + 0.5 + 1e-9).long().clamp(min=1).minimum(present)
        order, close = repeats(state.hidden, there, state)
        mergeable = close >= self.similarity
        reached = mergeable.sum(1) >= present - target
        gone = torch.where(reached[:, None], top(close, mergeable, present - target), mergeable)
        gone &= merges[:, None]
        into = first_of_run(order, gone).masked_fill(~there, -1)
        if bool(prunes.any()):
            assert state.scores is not None  # there was a layer below, in which merging ended
            dropped = ~top(state.scores, there, target) & prunes[:, None]
            into, gone = into.masked_fill(dropped, -1), gone | dropped
        few = mergeable.sum(1) < self.ratio_bound * present
        memory["merges"], memory["prunes"] = merges & ~reached & ~few, merges & ~reached & few
        memory["spent"] = memory["spent"] + (there & ~gone).sum(1)
        return Assignment(into, average=True)


def repeats(
    hidden: Float[Tensor, "batch visual dim"], there: Bool[Tensor, "batch visual"], state: LayerState
) -> tuple[Int[Tensor, "batch visual"], Float[Tensor, "batch visual"]]:
    """Return the tokens ordered by patch, and of each patch by time, those that are not there last; and for
    each token its cosine with the one before it of the same patch, -inf if there is none."""
    place = state.place
    patch = (state.video * (place.row.max() + 1) + place.row) * (place.col.max() + 1) + place.col
    patch = patch.masked_fill(~there, torch.iinfo(patch.dtype).max)
    order = patch.argsort(dim=1, stable=True)
    patch = patch.gather(1, order)
    unit = unit_vectors(hidden).gather(1, order[..., None].expand_as(hidden))
    close = (unit[:, 1:] * unit[:, :-1]).sum(-1).round(decimals=6)
    same = (patch[:, 1:] == patch[:, :-1]) & there.gather(1, order)[:, 1:]
    none = torch.full_like(unit[..., 0], -torch.inf)
    return order, none.scatter(1, order[:, 1:], close.masked_fill(~same, -torch.inf))


def first_of_run(
    order: Int[Tensor, "batch visual"], gone: Bool[Tensor, "batch visual"]
) -> Int[Tensor, "batch visual"]:
    """Return for each token itself, or, if it is gone, the last one before it in this order that is not."""
    at = torch.arange(order.shape[1], device=order.device).expand_as(order)
    start = at.masked_fill(gone.gather(1, order), 0).cummax(1).values
    return torch.empty_like(order).scatter(1, order, order.gather(1, start))
