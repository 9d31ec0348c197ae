"""SnapKV (arXiv 2404.14469): one eviction after the prompt, by what its last queries attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.kv_budget import pooled
from dycoke_lab.methods.parameter_checks import check_whole
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class SnapKV(Selector):
    """Keep, for each key head, what the prompt's last queries attend to, with neighbours; evict the
    others.

    prune_ratio: share of the visual tokens to evict; the paper counts tokens of the cache.
    from_layer: the paper prunes from layer 0.
    window: so many last queries, or all that the prompt has; the paper's code: 32.
    kernel: visual tokens to average over, odd; the paper's code: 5.

    Differs: one choice for each key head, by the mean over its query heads, as kvpress does; the
    authors' code repeats keys, and chooses for each query head. Its window's own tokens always stay;
    here a visual token that lies in the window competes. Neighbours are visual tokens, over text
    between frames.
    """

    from_layer: int = 0
    window: int = 32
    kernel: int = 5

    label: ClassVar[str] = "SnapKV"
    colour: ClassVar[str] = "#3f007d"
    paper: ClassVar[str] = "arXiv 2404.14469, 4"
    knob: ClassVar[str] = "prune_ratio"
    scope: ClassVar = "head"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("window", self.window, 1)
        check_whole("kernel", self.kernel, 1)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel} must be odd: as many neighbours on both sides")

    def select(self, step: Step) -> Tensor:
        votes = step.window_attention.sum(2)  # batch, query heads, visual
        votes = votes.unflatten(1, (step.scores.shape[1], -1)).mean(2)  # <-- one vote for each key head
        return top(pooled(votes, step.candidates, self.kernel), step.candidates, step.budget)
