"""DyCoke's dynamic pruning with one of its choices made otherwise. The defaults are DyCoke's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.dynamic_pruning import Dynamic
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.parameter_checks import check_between, check_whole
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class DynamicAblation(Dynamic):
    """Keep at every step the tokens that this step attends to, with other choices than DyCoke's.

    heads: tokens are ranked by the "mean" of their attention over the heads, or by its "max". (Whether
        attention has moved is decided by the mean.)
    reselect_every: select anew at decoding steps 1, 1 + n, 1 + 2n, ..., whether attention has moved or
        not; None: when it has moved, by reselect_below.
    """

    heads: Literal["mean", "max"] | Any = "mean"
    reselect_every: int | None = None

    label: ClassVar[str] = "dynamic, ablation"
    colour: ClassVar[str] = "#4d9fd6"
    paper: ClassVar[str] = "ablation"
    knob: ClassVar[str] = "prune_ratio"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads not in ("mean", "max"):
            raise ValueError(f"heads={self.heads!r} must be 'mean' or 'max'")
        if self.reselect_every is not None:
            check_whole("reselect_every", self.reselect_every, 1)

    def rank(self, step: Step) -> Tensor:
        return step.scores if self.heads == "mean" else step.window_attention[:, :, -1].amax(1)

    def select(self, step: Step) -> Tensor | None:
        if self.reselect_every is None:
            return super().select(step)
        if step.number == 0 or (step.number - 1) % self.reselect_every:
            return None
        return top(self.rank(step), step.candidates, step.budget)


@dataclass(frozen=True)
class DynamicMass(DynamicAblation):
    """Keep at every step the fewest tokens that hold a share of its attention within the video, one at
    least.

    mass: that share, from above 0 to 1, to within 1e-6; prune_ratio counts for nothing. With
        heads="max", of the sum of what tokens are ranked by.
    """

    mass: float = 0.9

    label: ClassVar[str] = "dynamic, by attention mass"
    colour: ClassVar[str] = "#0072b2"
    knob: ClassVar[str] = "mass"
    knob_range: ClassVar[tuple[float, float]] = (0.01, 1.0)
    fixed_budget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("mass", self.mass)
        if not self.mass:
            raise ValueError("mass=0 would keep no token: it must be above 0")

    @property
    def off(self) -> bool:
        return self.mass == 1

    def select(self, step: Step) -> Tensor | None:
        if self.evicts and step.selected is not None:
            return None  # the first selection stays
        return super().select(replace(step, budget=enough(self.rank(step), step.candidates, self.mass)))


def enough(
    scores: Float[Tensor, "*rows visual"], candidates: Bool[Tensor, "*rows visual"], mass: float
) -> Int[Tensor, "*rows"]:
    """Return how many of the candidates with the highest scores have together this share of all.

    >>> import torch
    >>> enough(torch.tensor([0.1, 0.4, 0.2, 0.1]), torch.tensor([True, True, True, False]), mass=0.8)
    tensor(2)
    """
    ordered = (scores.double() * candidates).sort(dim=-1, descending=True).values
    held = ordered.cumsum(-1)
    few = (held < (float(mass) - 1e-6) * held[..., -1:]).sum(-1) + 1
    return few.minimum(candidates.sum(-1))
