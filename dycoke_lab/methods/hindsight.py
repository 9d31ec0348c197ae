"""The best that one choice could know: tokens ranked by the attention that the whole answer will pay them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.scores import top


@dataclass(frozen=True, eq=False)
class Hindsight(Selector):
    """Keep the tokens with the largest attention in the future; evict the others.

    future: (batch, visual), summed over the decoding steps of a run with the full cache.
    `dycoke_lab.capture_attention` records such a run; `Trace.future()` sums it.
    """

    future: Float[Tensor, "batch visual"] | None = None

    label: ClassVar[str] = "hindsight (knows the future)"
    colour: ClassVar[str] = "#56b4e9"
    paper: ClassVar[str] = "control"
    needs: ClassVar[frozenset[str]] = frozenset({"a run with the full cache"})

    __eq__, __hash__ = object.__eq__, object.__hash__  # tensors have no single truth value

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.future is None:
            raise ValueError("future is missing: give Trace.future() of a captured run with the full cache")

    def select(self, step: Step) -> Tensor | None:
        assert self.future is not None
        if self.future.shape != step.scores.shape:
            wanted = tuple(step.scores.shape)
            raise ValueError(
                f"future has shape {tuple(self.future.shape)}, but must be (batch, visual tokens) = {wanted}"
            )
        return top(self.future.to(step.scores.device), step.candidates, step.budget)
