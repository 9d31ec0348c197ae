"""STTM (arXiv 2507.07990): tokens of several sizes within frames, then merged over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.parameter_checks import check_between
from dycoke_lab.methods.quadtree import merged_areas


@dataclass(frozen=True)
class STTM(PrefillReducer):
    """Keep one token for each area of a frame whose quarters are alike, and one for areas of consecutive
    frames that lie in each other and are alike.

    tau_s: an area stays one if the cosine of each of its (up to 4) quarters with their mean is at least
        this, -1 to 1; the authors tuned .75 to .95 for each model and benchmark.
    tau_t: the same for areas of consecutive frames, .5 to .65 (more for a 72B model); None: tau_s, so
        that one number decides.
    root_level: the coarsest areas: 0, so that a frame has 2 rows or columns of them; 1, twice as many
        (the authors' scripts), and so on. A frame of 4 x 4 tokens has areas of several only with 0.
    from_layer: the first layer with fewer tokens, 2 in the paper. It needs no scores, so it may be 0.

    Differs: position ids are kept, of the first token of the earliest area, where the code numbers them
    anew. Cosines are rounded to 6 decimals, so that equal tokens are alike at 1. Tokens that are there
    no more count in no mean. Of an odd number of rows the first stays single: the code compares such
    areas with the frame's first corner, too. It has no prune_ratio.
    """

    from_layer: int = 2
    tau_s: float = 0.85
    tau_t: float | None = 0.55
    root_level: int = 1
    prune_ratio: ClassVar[float] = 0.0

    label: ClassVar[str] = "STTM"
    colour: ClassVar[str] = "#d9508a"
    paper: ClassVar[str] = "arXiv 2507.07990, 3"
    knob: ClassVar[str] = "tau_s"
    knob_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    first_layer: ClassVar[int] = 0
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("tau_s", self.tau_s, -1)
        if self.tau_t is not None:
            check_between("tau_t", self.tau_t, -1)
        if type(self.root_level) is not int or self.root_level < 0:
            raise ValueError(f"root_level={self.root_level!r} must be a whole number from 0")

    @property
    def off(self) -> bool:
        return False

    def reduce(self, state: LayerState) -> Assignment:
        into, features = torch.full_like(state.video, -1), state.hidden.clone()
        least = self.tau_s, self.tau_s if self.tau_t is None else self.tau_t
        for row, there in enumerate(state.candidates):
            frame, rows, cols = (part[row] for part in state.place)
            for video in range(int(state.video[row].max()) + 1):
                mine = state.video[row] == video
                if len(tokens := (there & mine).nonzero()[:, 0]):
                    time = frame - frame[mine].min()
                    grid = [int(part[mine].max()) + 1 for part in (time, rows, cols)]
                    cell = ((time * grid[1] + rows) * grid[2] + cols)[tokens]
                    end, found = merged_areas(state.hidden[row, tokens], cell, grid, *least, self.root_level)
                    into[row, tokens], features[row, tokens] = tokens[end], found
        return Assignment(into, features=features)
