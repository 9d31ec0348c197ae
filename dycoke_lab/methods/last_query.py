"""One-shot eviction after prefill by the attention of the prompt's last token (TOVA's score, at layer L - 1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dycoke_lab.methods.base import Method, Step
from dycoke_lab.prune import top


@dataclass(frozen=True)
class LastQuery(Method):
    def select(self, step: Step) -> Tensor | None:
        return top(step.scores, step.available, step.counts) if step.number == 0 else None
