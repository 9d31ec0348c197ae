"""Quest (arXiv 2406.10774): pages of tokens, chosen at each step by a bound of their attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.kv_budget import ends_of_pages
from dycoke_lab.methods.parameter_checks import check_whole
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class Quest(Selector):
    """Keep at each step the pages of visual tokens whose keys could match this step's query best; the
    others can return.

    prune_ratio: share of the visual tokens that a step does not read; the paper counts tokens.
    from_layer: the paper prunes from layer 2. page_size: visual tokens a page; the paper's 16.
    A page's bound: over channels, the larger of the query times the page's smallest and largest key,
    summed.

    Differs: layer from_layer - 1 chooses for all pruned layers, by the sum of its heads' bounds; the
    paper's layers and heads choose for themselves. Pages are chosen until the budget is full, of the
    last one its first tokens; the paper's budget is in whole pages, three at least. Memory does not
    shrink, as in the paper.
    """

    from_layer: int = 2
    page_size: int = 16

    label: ClassVar[str] = "Quest-style pages, shared"
    colour: ClassVar[str] = "#c51b8a"
    paper: ClassVar[str] = "arXiv 2406.10774, 3"
    knob: ClassVar[str] = "prune_ratio"
    can_return: ClassVar[bool] = True
    every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("page_size", self.page_size, 1)

    def select(self, step: Step) -> Tensor | None:
        if step.number == 0:
            return None
        page = (step.candidates.cumsum(1) - 1).clamp(min=0) // self.page_size
        if "least" not in step.memory:  # the scoring layer's keys of the video stay as they are
            keys, pages = step.keys, -(-page.shape[1] // self.page_size)
            ends = ends_of_pages(keys, step.candidates, page, pages)
            step.memory["least"], step.memory["most"] = ends
        least, most = step.memory["least"], step.memory["most"]
        query = step.query.unflatten(1, (least.shape[1], -1)).to(least.dtype)
        up, down = query.clamp(min=0).sum(2), query.clamp(max=0).sum(2)  # over a key head's query heads
        bound = torch.einsum("bhd,bhpd->bp", up, most) + torch.einsum("bhd,bhpd->bp", down, least)
        return top(bound.gather(1, page), step.candidates, step.budget)
