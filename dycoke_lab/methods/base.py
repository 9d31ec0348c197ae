"""What every selection method is: one small dataclass with one method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Step(NamedTuple):
    """What a method may look at when it decides.

    number: 0 at the prompt's last token, then 1, 2, ... for the decoding steps.
    scores: (batch, visual), this step's attention at layer L - 1, mean over heads, 0 for merged tokens.
    before: the scores of the step before; None at step 0.
    available: (batch, visual), the tokens that merging left. counts: (batch,), how many to keep.
    selected: what the step before attended to; None while nothing has been selected.
    gate: a step selects anew if its attention's cosine with the step before is below this.
    """

    number: int
    scores: Float[Tensor, "batch visual"]
    before: Float[Tensor, "batch visual"] | None
    available: Bool[Tensor, "batch visual"]
    counts: Int[Tensor, " batch"]
    selected: Bool[Tensor, "batch visual"] | None
    gate: float


@dataclass(frozen=True)
class Method:
    """Chooses which visual tokens the layers from L on attend to.

    in_prefill: what step 0 selects already holds for the prompt itself (FastV); else from the first decoding step.
    exact: it always selects as many as `counts` says; else each selection has to be counted, for which a GPU must be waited for.
    returns: tokens not selected wait and can come back; else they are evicted and their memory is freed, so that `select` is not
        asked again once it has chosen.
    """

    in_prefill: bool = False
    returns: bool = False
    exact: bool = True

    def select(self, step: Step) -> Bool[Tensor, "batch visual"] | None:
        """The tokens to attend to from this step on, some of those `available`; None changes nothing."""
        raise NotImplementedError


def check_choice(chosen: Any, step: Step, method: Method) -> None:
    """Raise ValueError, saying what is wrong, for a choice that a method of one's own may not make. Looks at the numbers, for which
    a GPU is waited for; this library's own methods are tested instead."""
    name, shape = f"{type(method).__name__}.select", tuple(step.available.shape)
    if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.shape != shape:
        got = f"{chosen.dtype}, {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
        raise ValueError(f"{name} must return a boolean tensor (batch, visual), here {shape}, or None; it returned {got}")
    if (chosen & ~step.available).any():
        raise ValueError(f"{name} chose tokens that merging took away: it may choose among step.available")
    counts = chosen.sum(1)
    if method.exact and not torch.equal(counts, step.counts):
        raise ValueError(
            f"{name} chose {counts.tolist()} tokens, but step.counts is {step.counts.tolist()}: choose as many, or set exact=False"
        )
