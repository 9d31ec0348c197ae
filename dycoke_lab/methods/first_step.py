"""Dynamic pruning's first selection, then frozen: what selecting at every step adds is the difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class FirstStep(Selector):
    """Keep what the first decoding step attends to; evict the others."""

    label: ClassVar[str] = "first step only"
    colour: ClassVar[str] = "#cc78bc"
    paper: ClassVar[str] = "control"

    def select(self, step: Step) -> Tensor | None:
        return top(step.scores, step.candidates, step.budget) if step.number == 1 else None
