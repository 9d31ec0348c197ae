"""The part of PruneVid (arXiv 2412.16117) that acts inside the LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.scores import retained_budget, top


@dataclass(frozen=True)
class PruneVidInner(PrefillReducer):
    """Keep of each frame the tokens that any head of any of the prompt's tokens after the video attends
    to most.

    prune_ratio: 1 - the paper's alpha (.4), the share of a frame's tokens to drop, from 0 to below 1.
    from_layer: the first layer with fewer tokens; the layer below scores (the paper's layer 10).
    Numbers of tokens to the nearest, halves up, at least 1 of each frame that has any left.

    Differs: the paper then prunes the KV cache of the scoring layer and of those below it, too; here
    they keep theirs. It has a budget of its own for the tokens that its outer part averages over a
    window; here these count as tokens of their window's first frame.
    """

    prune_ratio: float = 0.6
    from_layer: int = 11

    label: ClassVar[str] = "PruneVid (inner)"
    colour: ClassVar[str] = "#e8743b"
    paper: ClassVar[str] = "arXiv 2412.16117, 3"
    knob: ClassVar[str] = "prune_ratio"
    window: ClassVar[int | Literal["text"]] = "text"

    def reduce(self, state: LayerState) -> Assignment:
        scores = state.window_attention.amax((1, 2))
        stays = torch.zeros_like(state.candidates)
        for frame in range(int(state.place.frame.max()) + 1):
            there = state.candidates & (state.place.frame == frame)
            stays |= top(scores, there, retained_budget(there, self.prune_ratio))
        return Assignment.keep(stays)
