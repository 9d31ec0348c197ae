"""DyCoke's dynamic pruning (arXiv 2411.15024, section 3.3), and DyCoke itself: temporal merging, then
this."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dycoke_lab.methods.base import Compression, Selector
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.scores import has_moved, top
from dycoke_lab.methods.temporal_merging import TTM

INACTIVE = ("device", "offload", "evict")


@dataclass(frozen=True)
class Reselecting(Selector):
    """Base of methods whose tokens can return.

    reselect_below: attention has moved if the cosine between a step's scores and those of the step before is
        below this; above 1 it always has. Only then does `Dynamic` select anew.
    inactive: where inactive tokens' keys and values are: on the "device", in the same buffers as the active
        ones; "offload": in the host's pinned memory, for which the CPU reads each selection; "evict":
        nowhere, so that the first selection stays for good.
    """

    reselect_below: float = 0.9
    inactive: Literal["device", "offload", "evict"] | Any = "device"

    can_return: ClassVar[bool] = True
    every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.reselect_below, Real) or not -1 <= self.reselect_below <= 2:
            raise ValueError(
                f"reselect_below={self.reselect_below!r} must lie between -1 (never) and 2 (at every step)"
            )
        if self.inactive not in INACTIVE:
            raise ValueError(f"inactive={self.inactive!r} must be 'device', 'offload' or 'evict'")


@dataclass(frozen=True)
class Dynamic(Reselecting):
    """Keep at every step the tokens that this step attends to; the others stay inactive, and can return."""

    label: ClassVar[str] = "dynamic (DyCoke)"
    colour: ClassVar[str] = "#0173b2"
    paper: ClassVar[str] = "arXiv 2411.15024, 3.3"

    def rank(self, step: Step) -> Tensor:
        """Return what tokens are ranked by."""
        return step.scores

    def select(self, step: Step) -> Tensor | None:
        if step.number == 0:
            return None
        if step.selected is not None and step.previous is not None and self.reselect_below <= 1:
            anew = has_moved(step.scores, step.previous, self.reselect_below)
            if anew.device.type == "cpu" and not anew.any():  # a GPU would have to be waited for
                return None
        else:
            anew = None
        chosen = top(
            self.rank(step), step.candidates, step.budget
        )  # <-- which tokens leave, and which return
        return chosen if anew is None else torch.where(anew[:, None], chosen, step.selected)  # type: ignore[arg-type]


def DyCoke(
    merge_ratio: float | None = None, prune_ratio: float = 0.7, from_layer: int = 3, **fields: Any
) -> Compression:
    """Return the paper's method: `TTM(0.7) + Dynamic(0.7, from_layer=3)`, with other values of their
    fields.

    >>> DyCoke(0.5, 0.9, from_layer=8) == TTM(0.5) + Dynamic(0.9, from_layer=8)
    True
    """
    others = ("threshold", "window", "combine", "positions", "reference")
    merging = {name: fields.pop(name) for name in others if name in fields}
    return TTM(merge_ratio, **merging) + Dynamic(prune_ratio, from_layer, **fields)
