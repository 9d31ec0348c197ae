"""What every selection method is: one small dataclass with one method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
    returns: tokens not selected wait and can come back; else they are evicted and their memory is freed.
    """

    in_prefill: bool = False
    returns: bool = False
    exact: bool = True

    def select(self, step: Step) -> Bool[Tensor, "batch visual"] | None:
        """The tokens to attend to from this step on; None changes nothing."""
        raise NotImplementedError
