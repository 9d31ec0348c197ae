"""One-shot eviction after the prefill, by the attention of the prompt's last token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class LastQuery(Selector):
    """Keep the tokens that the prompt's last token attends to most (TOVA's score, at layer from_layer -
    1)."""

    label: ClassVar[str] = "one-shot, last query"
    colour: ClassVar[str] = "#d55e00"
    paper: ClassVar[str] = "score of arXiv 2401.06104"

    def select(self, step: Step) -> Tensor | None:
        return top(step.scores, step.candidates, step.budget)
