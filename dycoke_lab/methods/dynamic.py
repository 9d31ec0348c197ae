"""DyCoke's dynamic pruning (paper, section 3.3): every step keeps what it attends to; the others wait."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke_lab import prune
from dycoke_lab.methods.base import Method, Step
from dycoke_lab.prune import moved, top


@dataclass(frozen=True)
class Dynamic(Method):
    returns: bool = True

    def select(self, step: Step) -> Tensor | None:
        if step.number == 0:
            return None
        if step.selected is None or step.before is None or step.gate > 1:
            return top(step.scores, step.available, step.counts)
        anew = moved(step.scores, step.before, step.gate)
        if prune.free_to_look(anew.device) and not anew.any():
            return None
        return torch.where(anew[:, None], top(step.scores, step.available, step.counts), step.selected)
