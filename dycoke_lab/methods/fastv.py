"""FastV (arXiv 2403.06764): one choice, made inside the prefill, so that the prompt's later layers never get
the dropped tokens either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class FastV(PrefillReducer):
    """Keep the tokens that the prompt's last token attends to most in layer from_layer - 1; drop the
    others."""

    label: ClassVar[str] = "one-shot, FastV"
    colour: ClassVar[str] = "#de8f05"
    paper: ClassVar[str] = "arXiv 2403.06764, 4"

    def reduce(self, state: LayerState) -> Assignment:
        assert state.scores is not None  # from_layer is at least 1
        return Assignment.keep(top(state.scores, state.candidates, state.budget))
