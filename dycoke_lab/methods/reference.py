"""What DyCoke's published code does: its gate is upside down.

A step whose attention is like the one before (cosine >= gate) is not pruned at all: it attends to the full
cache. Only a step whose attention has moved is pruned. (shared facts: paper.md, "Where the reference code parts".)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke_lab.methods.base import Method, Step
from dycoke_lab.prune import moved, top


@dataclass(frozen=True)
class ReferenceCode(Method):
    returns: bool = True
    exact: bool = False

    def select(self, step: Step) -> Tensor | None:
        if step.number == 0:
            return None
        chosen = top(step.scores, step.available, step.counts)
        if step.number == 1 or step.before is None:
            return chosen
        return torch.where(moved(step.scores, step.before, step.gate)[:, None], chosen, step.available)
