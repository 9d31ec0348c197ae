"""Controls that look at nothing: random, uniform stride, keep-first, keep-none. All one-shot, after prefill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke_lab.methods.base import Method, Step
from dycoke_lab.prune import top


@dataclass(frozen=True)
class Random(Method):
    """seed: decides the choice, together with the batch's shape. Each row has a choice of its own, also beams of one prompt."""

    seed: int = 0

    def select(self, step: Step) -> Tensor | None:
        if step.number != 0:
            return None
        noise = torch.rand(step.scores.shape, generator=torch.Generator().manual_seed(self.seed))
        return top(noise.to(step.scores.device), step.available, step.counts)


@dataclass(frozen=True)
class Uniform(Method):
    """Every n-th of the tokens that merging left, in order."""

    def select(self, step: Step) -> Tensor | None:
        if step.number != 0:
            return None
        rank, total = step.available.cumsum(1) - 1, step.available.sum(1, keepdim=True).clamp(min=1)
        # bucket b of `counts` equal ones begins where floor(rank * counts / total) first reaches b
        bucket = rank * step.counts[:, None] // total
        before = torch.where(rank > 0, (rank - 1) * step.counts[:, None] // total, -1)
        return step.available & (bucket != before)


@dataclass(frozen=True)
class KeepFirst(Method):
    """The earliest tokens, frame by frame."""

    def select(self, step: Step) -> Tensor | None:
        if step.number != 0:
            return None
        return step.available & (step.available.cumsum(1) <= step.counts[:, None])


@dataclass(frozen=True)
class KeepNone(Method):
    """No visual token at all, whatever the ratio: what is still right was read below layer L, or while reading the prompt (the
    first word always is).

    A selection that does no better than this selects nothing of use.
    """

    exact: bool = False

    def select(self, step: Step) -> Tensor | None:
        return torch.zeros_like(step.available) if step.number == 0 else None
