"""What a selector of one's own may choose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Step


def check_choice(chosen: Any, step: Step, selector: Selector) -> None:
    """Raise ValueError, saying what is wrong, for a choice that a method of one's own may not make. Reads the
    numbers, for which a GPU is waited for; the library's own methods are tested instead."""
    name, shape = f"{type(selector).__name__}.select", tuple(step.candidates.shape)
    if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.shape != shape:
        got = (
            f"{chosen.dtype}, {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
        )
        raise ValueError(f"{name} must return a boolean tensor of shape {shape}, or None; it returned {got}")
    if bool((chosen & ~step.candidates).any()):
        raise ValueError(
            f"{name} chose tokens that are merged away or evicted: it may choose among step.candidates"
        )
    counts = chosen.sum(-1)
    if selector.fixed_budget and not torch.equal(counts, step.budget):
        raise ValueError(
            f"{name} chose {counts.tolist()} tokens, but step.budget is {step.budget.tolist()}: choose as "
            "many, or set fixed_budget = False"
        )
