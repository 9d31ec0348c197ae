"""STTM (arXiv 2507.07990): tokens of several sizes within frames, then merged over time."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import Assignment, LayerState
from dycoke_lab.methods.quadtree import linked, quadtree
from dycoke_lab.methods.scores import unit_vectors


@dataclass(frozen=True)
class STTM(PrefillReducer):
    """Keep one token for each area of a frame whose quarters are alike, and one for areas of consecutive
    frames that lie in each other and are alike.

    tau_s: an area stays one if each of its (up to 4) quarters' cosine with their mean is at least this, -1 to
        1; the authors tuned .75 to .95 for each model and benchmark.
    tau_t: the same for areas of consecutive frames; .5 to .65 (.82 to .9 for a 72B model).
    root: the coarsest areas: 0 the whole frame, 1 its quarters (the authors' scripts), and so on.
    from_layer: the first layer with fewer tokens, 2 in the paper; it needs no scores, so 0 is allowed.

    Differs: position ids are kept, of the first token of the earliest area, where the code numbers them anew.
    Cosines are rounded to 6 decimals, so that equal tokens are alike at 1. Tokens that are not there any more
    count in no mean.
    """

    tau_s: float = 0.85
    tau_t: float = 0.55
    from_layer: int = 2
    root: int = 1
    prune_ratio: ClassVar[float] = 0.0  # it has none

    label: ClassVar[str] = "STTM"
    colour: ClassVar[str] = "#d9508a"
    paper: ClassVar[str] = "arXiv 2507.07990, 3"
    knob: ClassVar[str] = "tau_s"
    first_layer: ClassVar[int] = 0
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau_s", "tau_t"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not -1 <= value <= 1:
                raise ValueError(f"{name}={value!r} is a cosine similarity: it must lie between -1 and 1")
        if type(self.root) is not int or self.root < 0:
            raise ValueError(f"root={self.root!r} must be a whole number from 0")

    @property
    def off(self) -> bool:
        return False

    def reduce(self, state: LayerState) -> Assignment:
        into, features = torch.full_like(state.video, -1), state.hidden.clone()
        for row, there in enumerate(state.candidates):
            frame, rows, cols = (part[row] for part in state.place)
            for video in range(int(state.video[row].max()) + 1):
                mine = state.video[row] == video
                tokens = (there & mine).nonzero()[:, 0]
                if len(tokens):
                    first = frame[mine].min()
                    grid = [int(part[mine].max()) + 1 for part in (frame - first, rows, cols)]
                    cell = ((frame - first) * grid[1] + rows) * grid[2] + cols
                    end, found = self._merged(state.hidden[row, tokens], cell[tokens], grid)
                    into[row, tokens], features[row, tokens] = tokens[end], found
        return Assignment(into, features=features)

    def _merged(
        self, hidden: torch.Tensor, cell: torch.Tensor, grid: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For the tokens of one video, in order: which of them each is merged into, and the features of
        those. cell: of each in the video's grid of frames, rows and columns."""
        frames, rows, cols = grid
        dense = hidden.new_zeros(frames * rows * cols, hidden.shape[1]).index_copy(0, cell, hidden)
        there = torch.zeros(len(dense), dtype=torch.bool, device=cell.device).index_fill(0, cell, True)
        shape = frames, rows, cols
        node, mean = quadtree(dense.view(*shape, -1), there.view(shape), self.tau_s, self.root)
        number = torch.empty_like(there, dtype=torch.long)
        number[cell] = torch.arange(len(cell), device=cell.device)
        unit = unit_vectors(mean)
        close = (unit[1:] * unit[:-1]).sum(-1).round(decimals=6)
        alike = (close >= self.tau_t) & (node[1:] >= 0) & (node[:-1] >= 0)
        end = linked(len(dense), node[:-1][alike], node[1:][alike])
        first = node.flatten()[cell] == cell  # tokens that stand for an area
        group = end[cell[first]]
        sums = torch.zeros_like(dense).index_add(0, group, mean.flatten(0, 2)[cell[first]])
        size = torch.bincount(group, minlength=len(dense)).clamp(min=1)
        means = sums / size[:, None].to(sums.dtype)
        return number[end[node.flatten()[cell]]], means[cell]
