"""What a selection costs and what it saves, in bytes of keys and values, and where the two are equal.

For dynamic pruning at a decoding step: the layers from L on do not read their inactive tokens; but layer
L - 1 is read once more for its scores, and what becomes active changes places with what does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.model_shapes import SHAPES
from dycoke_lab.bench.roofline import columns


@dataclass(frozen=True)
class Selecting:
    """Bytes at one step of one prompt. read: of all keys and values, with merging alone. skipped: of
    them, of inactive tokens. scored: of the keys that score. moved: if all active tokens were
    replaced."""

    read: int
    skipped: int
    scored: int
    moved: int

    def saved(self, changed: float) -> float:
        """Return the share of `read` that is saved, where a step selects anew and replaces this share of
        the active tokens; negative: more is moved than is not read."""
        return (self.skipped - self.scored - changed * self.moved) / self.read

    @property
    def break_even(self) -> float:
        """The share of active tokens that a step may replace, at most, for selecting to save
        anything."""
        return (self.skipped - self.scored) / self.moved


def selecting(
    shape: str, frames: int, merge: float = 0.7, prune: float = 0.7, from_layer: int = 3, element: int = 2
) -> Selecting:
    """Return the bytes of a setting. Those that change places are read and written, both of them."""
    config = BenchmarkConfig(shape, frames, 1, 1, "dycoke", merge, prune, from_layer=from_layer)
    tokens, one = columns(config), SHAPES[shape].kv_bytes(element)
    return Selecting(
        read=one * SHAPES[shape].layers * tokens.prompt,
        skipped=one * tokens.pruned * (tokens.visual - tokens.attended),
        scored=one * tokens.prompt // 2,
        moved=4 * one * tokens.pruned * tokens.attended,
    )


def steps_to_pay(cost: float, saved: float) -> float:
    """Return after how many steps a selection has saved what it cost: the least whole number; infinity
    if a step saves nothing. cost: of one selection. saved: by each step that uses it."""
    return math.inf if saved <= 0 else math.ceil(cost / saved - 1e-9)
