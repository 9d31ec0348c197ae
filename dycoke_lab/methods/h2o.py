"""H2O (arXiv 2306.14048): the tokens with most attention so far, and the most recent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.kv_budget import SlidingCache, newest
from dycoke_lab.methods.parameter_checks import check_between, check_whole
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class H2O(SlidingCache):
    """Keep, for each key head, the visual tokens with most attention over all queries so far, and the
    last ones; evict the others, one more at each step.

    prune_ratio: share of the visual tokens to evict after the prompt; the paper counts tokens of the
        cache.
    heavy_share: share of the budget for heavy hitters, to the nearest, halves up; the rest is for the
        most recent visual tokens. The paper's halves.
    window: of the prompt, so many last queries count.
    from_layer: the paper prunes from layer 0. answer_counts: as in the paper.

    Differs: the paper counts all queries of the prompt; here its last 64, which is what a shared
    prefill keeps (a larger window costs queries x visual tokens of memory a layer). Recent are the last
    visual tokens, though text follows them. Heads: the mean over a key head's query heads.
    """

    heavy_share: float = 0.5
    window: int = 64

    label: ClassVar[str] = "H2O"
    colour: ClassVar[str] = "#9e9ac8"
    paper: ClassVar[str] = "arXiv 2306.14048, 4"
    scope: ClassVar = "head"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("heavy_share", self.heavy_share)
        check_whole("window", self.window, 1)

    def select(self, step: Step) -> Tensor:
        received = step.window_attention.sum(2).unflatten(1, (step.scores.shape[1], -1)).mean(2)
        step.memory["received"] = total = step.memory.get("received", 0) + received
        heavy = (float(self.heavy_share) * step.budget.double() + 0.5 + 1e-9).long()
        recent = newest(step.candidates, step.budget - heavy)
        return recent | top(total, step.candidates & ~recent, heavy)
