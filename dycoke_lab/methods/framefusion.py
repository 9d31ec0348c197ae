"""FrameFusion (arXiv 2501.01986): merge what is similar in consecutive frames in the first layers, then
prune once by attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.parameter_checks import check_between
from dycoke_lab.methods.scores import top, unit_vectors


@dataclass(frozen=True)
class FrameFusion(PrefillReducer):
    """Average the tokens of a patch that stay similar from frame to frame, layer by layer, until few are
    left that do; then keep once what the prompt's last token attends to most.

    prune_ratio: 1 - the paper's cost (.3), the share of the visual tokens that a layer has, mean over
        all layers. similarity: the least cosine to merge, -1 to 1; the paper's .6 (.5 for Qwen2-VL).
    ratio_bound: merging ends where a smaller share of the tokens is that similar; the paper's .1.
    from_layer: the first layer before which it merges; those below count as full ones.
    Where enough tokens are similar for the layers left to keep within the cost, only the most similar
    are merged, and that is all. Numbers to the nearest, halves up, at least 1 (the code: int, round).

    Differs: it acts before layers, the code between attention and MLP. The code's cost is of 28 layers
    in any model, and an error if used up; here 1 token is left then. Cosines are rounded to 6 decimals,
    so that ties go to the earlier token. Tokens of different videos are not merged.
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
        check_between("similarity", self.similarity, -1)
        check_between("ratio_bound", self.ratio_bound)

    def layers(self, depth: int) -> Sequence[int]:
        return range(self.from_layer, depth)

    def reduce(self, state: LayerState) -> Assignment | None:
        there, present = state.candidates, state.candidates.sum(1)
        past: _Past = state.memory.get("past") or _Past.of(present, state.layer)
        if not bool((past.merges | past.prunes).any()):
            return None
        rest = (1 - float(self.prune_ratio)) * state.depth * past.all.double() - past.spent
        target = (rest / (state.depth - state.layer) + 0.5 + 1e-9).long().clamp(min=1).minimum(present)
        order, close = repeats(state)
        similar = close >= self.similarity
        reached = similar.sum(1) >= present - target
        gone = torch.where(reached[:, None], top(close, similar, present - target), similar)
        gone &= past.merges[:, None]
        into = first_of_run(order, gone).masked_fill(~there, -1)
        if state.scores is not None:  # else nothing has been merged yet
            dropped = there & ~top(state.scores, there, target) & past.prunes[:, None]
            into, gone = into.masked_fill(dropped, -1), gone | dropped
        few, merges = similar.sum(1) < self.ratio_bound * present, past.merges & ~reached
        spent = past.spent + (there & ~gone).sum(1)
        state.memory["past"] = _Past(past.all, spent, merges & ~few, merges & few)
        return Assignment(into, average=True)


class _Past(NamedTuple):
    """Of each batch element: all its tokens, those of each layer so far in all, and what it is to do
    next."""

    all: Tensor
    spent: Tensor
    merges: Tensor
    prunes: Tensor

    @classmethod
    def of(cls, present: Tensor, layers: int) -> _Past:
        return cls(present, present * layers, present > 0, torch.zeros_like(present, dtype=torch.bool))


def repeats(
    state: LayerState,
) -> tuple[Int[Tensor, "batch visual"], Float[Tensor, "batch visual"]]:
    """Return the tokens ordered by patch, and of each patch by time, those that are not there last; and
    for each token its cosine with the one before it of the same patch, -inf if there is none."""
    place, there, unit = state.place, state.candidates, unit_vectors(state.hidden)
    patch = (state.video * (place.row.max() + 1) + place.row) * (place.col.max() + 1) + place.col
    patch = patch.masked_fill(~there, torch.iinfo(patch.dtype).max)
    order = patch.argsort(dim=1, stable=True)
    patch = patch.gather(1, order)
    unit = unit.gather(1, order[..., None].expand_as(unit))
    close = (unit[:, 1:] * unit[:, :-1]).sum(-1).round(decimals=6)
    same = (patch[:, 1:] == patch[:, :-1]) & there.gather(1, order)[:, 1:]
    none = torch.full_like(unit[..., 0], -torch.inf)
    return order, none.scatter(1, order[:, 1:], close.masked_fill(~same, -torch.inf))


def first_of_run(
    order: Int[Tensor, "batch visual"], gone: Bool[Tensor, "batch visual"]
) -> Int[Tensor, "batch visual"]:
    """Return for each token itself, or, if it is gone, the last one before it in this order that is
    not."""
    at = torch.arange(order.shape[1], device=order.device).expand_as(order)
    start = at.masked_fill(gone.gather(1, order), 0).cummax(1).values
    return torch.empty_like(order).scatter(1, order, order.gather(1, start))
