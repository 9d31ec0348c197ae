"""The part of HoliTom (arXiv 2505.21334) that acts inside the LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.scores import top, unit_vectors


@dataclass(frozen=True)
class HoliTomInner(PrefillReducer):
    """Keep the tokens that the prompt's last token attends to most, and fold each other one into the
    kept one with the most similar hidden state.

    prune_ratio: the paper's R (.5), the share that is folded, from 0 to below 1.
    from_layer: the first layer with fewer tokens; the layer below scores. The scripts' is 18, the
        default of the code 3.
    Numbers of tokens to the nearest, halves up (the code: round).

    Differs: nothing, but that cosines are rounded to 6 decimals, so that ties go to the earlier token.
    As in the code, x is folded into y as (x + y) / 2, one after the other: the last one in counts half.
    """

    prune_ratio: float = 0.5
    from_layer: int = 18

    label: ClassVar[str] = "HoliTom (inner)"
    colour: ClassVar[str] = "#f2a03d"
    paper: ClassVar[str] = "arXiv 2505.21334, 3"
    knob: ClassVar[str] = "prune_ratio"

    def reduce(self, state: LayerState) -> Assignment:
        assert state.scores is not None  # from_layer is at least 1
        stays = top(state.scores, state.candidates, state.budget)
        into = torch.full_like(stays, -1, dtype=torch.long)
        features = state.hidden.clone()
        for row, (keep, there) in enumerate(zip(stays, state.candidates, strict=True)):
            kept, gone = keep.nonzero()[:, 0], (there & ~keep).nonzero()[:, 0]
            into[row, kept] = kept
            if len(kept) and len(gone):
                unit = unit_vectors(state.hidden[row])
                close = (unit[gone] @ unit[kept].T).round(decimals=6)
                nearest = close.argmax(1)  # the first of equal ones
                into[row, gone] = kept[nearest]
                features[row, kept] = folded(state.hidden[row, kept], state.hidden[row, gone], nearest)
        return Assignment(into, features=features)


def folded(
    kept: Float[Tensor, "kept dim"], gone: Float[Tensor, "gone dim"], ends: Int[Tensor, " gone"]
) -> Float[Tensor, "kept dim"]:
    """Return what is left when each row of `gone`, one after the other, takes half of the row of `kept`
    that `ends` names: the last one counts 1/2, the one before it 1/4, and so on.

    >>> folded(torch.tensor([[8.0]]), torch.tensor([[4.0], [2.0]]), torch.tensor([0, 0]))
    tensor([[4.]])
    """
    counts = torch.bincount(ends, minlength=len(kept))
    order = ends.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts[ends[order]]
    half = torch.tensor(0.5, dtype=kept.dtype, device=kept.device)
    share = half ** (counts[ends] - rank)
    return (kept * (half**counts)[:, None]).index_add(0, ends, gone * share[:, None])
