"""StreamingLLM (arXiv 2309.17453): the first tokens, and the most recent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.kv_budget import SlidingCache, newest
from dycoke_lab.methods.parameter_checks import check_whole


@dataclass(frozen=True)
class StreamingLLM(SlidingCache):
    """Keep the first visual tokens, and the last ones for the rest of the budget; the oldest of these
    leaves at each step.

    prune_ratio: share of the visual tokens to evict after the prompt; the paper counts tokens of the
        cache.
    n_sink: first visual tokens that stay, if the budget has room for them; the paper's 4.
    from_layer: the paper prunes from layer 0. answer_counts: as in the paper.

    Differs: positions are kept; the paper numbers them inside the cache. The prompt's own first tokens
    are text, which stays in any case.
    """

    n_sink: int = 4

    label: ClassVar[str] = "StreamingLLM"
    colour: ClassVar[str] = "#bcbddc"
    paper: ClassVar[str] = "arXiv 2309.17453, 3"
    needs: ClassVar[frozenset[str]] = frozenset()
    scope: ClassVar = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("n_sink", self.n_sink, 0)

    def select(self, step: Step) -> Tensor:
        sinks = step.budget.clamp(max=self.n_sink)
        first = step.candidates & (step.candidates.cumsum(-1) <= sinks[..., None])
        return first | newest(step.candidates, step.budget - sinks)
