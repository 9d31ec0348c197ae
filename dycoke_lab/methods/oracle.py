"""The best that one choice could know: ranks tokens by the attention that the whole answer will pay them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dycoke_lab.methods.base import Method, Step
from dycoke_lab.prune import top


@dataclass(frozen=True)
class Oracle(Method):
    """future: (batch, visual), summed over the decoding steps of a run with the full cache.

    `dycoke_lab.capture_attention` records such a run; `Trace.future()` sums it.
    """

    future: Tensor | None = None

    def select(self, step: Step) -> Tensor | None:
        if step.number != 0:
            return None
        if self.future is None or self.future.shape != step.scores.shape:
            given = None if self.future is None else tuple(self.future.shape)
            raise ValueError(f"future has shape {given}, but must be (batch, visual tokens) = {tuple(step.scores.shape)}")
        return top(self.future.to(step.scores.device), step.available, step.counts)
