"""Controls that use no attention: random, uniform stride, keep first, keep none. All one-shot, after the
prefill."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import torch
from torch import Tensor

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Step
from dycoke_lab.methods.merger_parts import spread
from dycoke_lab.methods.scores import top


class _Control(Selector):
    paper: ClassVar[str] = "control"
    needs: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class Random(_Control):
    """Keep random tokens. seed: decides the choice, together with the batch's shape; of 64 bits. Each batch
    element has a choice of its own, also beams of one prompt."""

    seed: int = 0

    label: ClassVar[str] = "random"
    colour: ClassVar[str] = "#949494"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.seed, Integral) or not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed!r} must be a whole number of 64 bits")

    def select(self, step: Step) -> Tensor | None:
        noise = torch.rand(step.scores.shape, generator=torch.Generator().manual_seed(self.seed))
        return top(noise.to(step.scores.device), step.candidates, step.budget)


@dataclass(frozen=True)
class Uniform(_Control):
    """Keep every n-th of the tokens that merging retained, in order."""

    label: ClassVar[str] = "uniform"
    colour: ClassVar[str] = "#029e73"

    def select(self, step: Step) -> Tensor | None:
        return spread(step.candidates, step.budget)


@dataclass(frozen=True)
class KeepFirst(_Control):
    """Keep the earliest tokens, frame by frame."""

    label: ClassVar[str] = "keep first"
    colour: ClassVar[str] = "#ece133"

    def select(self, step: Step) -> Tensor | None:
        return step.candidates & (step.candidates.cumsum(1) <= step.budget[:, None])


@dataclass(frozen=True)
class KeepNone(_Control):
    """Keep no visual token at all, whatever the ratio: what is still right was read below from_layer, or in
    the prefill (which writes the first token). A selection that does no better selects nothing of use."""

    label: ClassVar[str] = "no video from L on"
    colour: ClassVar[str] = "#8c564b"

    @property
    def off(self) -> bool:
        return False

    def budget(self, candidates: Tensor) -> Tensor:
        return torch.zeros_like(candidates.sum(-1))

    def select(self, step: Step) -> Tensor | None:
        return torch.zeros_like(step.candidates)
