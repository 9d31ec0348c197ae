"""PyramidDrop (arXiv 2410.17247): visual tokens are dropped in stages, the more the deeper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.scores import retained_budget, top


@dataclass(frozen=True)
class PyramidDrop(PrefillReducer):
    """Keep at each stage what the prompt's last token attends to most: (1 - P) of the visual tokens from
    the first stage on, (1 - P)^2 from the second, (1 - P)^3 from the third.

    prune_ratio: P, the share dropped at each stage, from 0 to below 1; the paper keeps lambda = .5.
    stages: before which layers it acts, as shares of the model's depth, above 0 and below 1; the paper's
        are layers 8, 16 and 24 of 32.
    from_layer: no stage acts below this layer: lower ones act before it, at once.
    Layers and numbers of tokens to the nearest, halves up (the code: int).

    Differs: the score is the attention in the layer below the stage, where the code applies the next
    layer's projections once more. Position ids are kept, where the code numbers them anew.
    """

    prune_ratio: float = 0.5
    from_layer: int = 1
    stages: tuple[float, ...] | Any = (0.25, 0.5, 0.75)

    label: ClassVar[str] = "PyramidDrop"
    colour: ClassVar[str] = "#b3123f"
    paper: ClassVar[str] = "arXiv 2410.17247, 3"
    knob: ClassVar[str] = "prune_ratio"

    def __post_init__(self) -> None:
        super().__post_init__()
        shares: Sequence[float] = self.stages if isinstance(self.stages, Sequence) else ()
        if not shares or not all(isinstance(share, Real) and 0 < share < 1 for share in shares):
            raise ValueError(f"stages={self.stages!r} must be shares of the depth, above 0 and below 1")

    def layers(self, depth: int) -> list[int]:
        return [max(self.from_layer, int(share * depth + 0.5)) for share in self.stages]

    def reduce(self, state: LayerState) -> Assignment:
        assert state.scores is not None  # from_layer is at least 1
        everything = state.memory.setdefault("everything", state.candidates)
        passed = sum(layer <= state.layer for layer in self.layers(state.depth))
        budget = retained_budget(everything, 1 - (1 - float(self.prune_ratio)) ** passed)
        return Assignment.keep(top(state.scores, state.candidates, budget))
