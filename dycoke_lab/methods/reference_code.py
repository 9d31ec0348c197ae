"""What DyCoke's published code does: its comparison with the step before is upside down.

A step whose attention is like the one before (cosine >= reselect_below) is not pruned at all: it attends to
the full cache. Only a step whose attention has moved is pruned. (Read in the authors' repository, and run on
random weights: 938 tokens kept at step 1, the full cache ever after.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dycoke_lab.methods.dynamic_pruning import Reselecting
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.scores import has_moved, top


@dataclass(frozen=True)
class ReferenceCode(Reselecting):
    """Prune only the steps whose attention has moved."""

    label: ClassVar[str] = "reference code"
    colour: ClassVar[str] = "#ca9161"
    paper: ClassVar[str] = "code of arXiv 2411.15024"
    fixed_budget: ClassVar[bool] = False

    def select(self, step: Step) -> Tensor | None:
        if step.number == 0:
            return None
        chosen = top(step.scores, step.candidates, step.budget)
        if step.number == 1 or step.previous is None:
            return chosen
        return torch.where(
            has_moved(step.scores, step.previous, self.reselect_below)[:, None], chosen, step.candidates
        )
