"""PyramidKV (arXiv 2406.02069): SnapKV's scores, with a budget that falls from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dycoke_lab.methods.parameter_checks import check_whole
from dycoke_lab.methods.snapkv import SnapKV


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """Keep what SnapKV's scores say, most in the first pruned layer, and linearly fewer in each later
    one.

    prune_ratio: share of the visual tokens to evict, mean over the pruned layers.
    from_layer, window, kernel: as SnapKV's.
    beta: the last pruned layer keeps the mean budget / beta, rounded down; the code's default is 20.

    Differs: the line's start and end, and the flat budget where twice the mean is more than there is,
    are those of KVCache-Factory. Budgets between are rounded so that their mean is exact; the code
    rounds the slope down. On models with windowed layers the line runs over the layers that are pruned.
    """

    beta: int = 20

    label: ClassVar[str] = "PyramidKV"
    colour: ClassVar[str] = "#6a51a3"
    paper: ClassVar[str] = "arXiv 2406.02069, 4"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("beta", self.beta, 1)

    def budget_in(
        self, candidates: Bool[Tensor, "*rows visual"], layer: int, pruned: Sequence[int]
    ) -> Int[Tensor, "*rows"]:
        mean, there = self.budget(candidates), candidates.sum(-1)
        last, place = len(pruned) - 1, list(pruned).index(layer)
        if 2 * place == last:
            return mean
        # halves up in the upper half of the line; the lower half is what keeps the mean
        above = mean - mean // self.beta
        rise = (2 * above * (last - 2 * min(place, last - place)) + last) // (2 * last)
        share = mean + rise if 2 * place < last else mean - rise
        return torch.where(2 * mean <= there, share, mean)
