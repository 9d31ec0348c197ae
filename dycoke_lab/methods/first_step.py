"""Dynamic pruning's first selection, then frozen: what selecting at every step adds is the difference."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dycoke_lab.methods.base import Method, Step
from dycoke_lab.prune import top


@dataclass(frozen=True)
class FirstStep(Method):
    def select(self, step: Step) -> Tensor | None:
        return top(step.scores, step.available, step.counts) if step.number == 1 else None
