"""TOVA (arXiv 2401.06104): a cache of a fixed size, from which each step evicts what it attends to
least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.kv_budget import SlidingCache
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class TOVA(SlidingCache):
    """Keep, in each layer, what the last token attends to most, mean over heads; at every step again,
    and what is evicted is gone.

    prune_ratio: share of the visual tokens to evict after the prompt; the paper counts tokens of the
        cache.
    from_layer: the paper prunes from layer 0. answer_counts: as in the paper.

    Differs: text does not compete, so that each token of the answer evicts a visual one.
    """

    label: ClassVar[str] = "TOVA"
    colour: ClassVar[str] = "#807dba"
    paper: ClassVar[str] = "arXiv 2401.06104, 3"
    scope: ClassVar = "layer"

    def select(self, step: Step) -> Tensor:
        return top(step.scores, step.candidates, step.budget)
