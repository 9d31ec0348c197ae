"""Muon in float32, all matrices of one shape at once.

The same update as `torch.optim.Muon` with adjust_lr_fn="match_rms_adamw" (a test compares them), whose Newton-Schulz
steps always run in bfloat16, one matrix after the other. A CPU without bfloat16 instructions emulates them: 0.95 s of a training
step of 2.4 s.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic iteration, as in torch
STEPS = 5


class Muon(torch.optim.Optimizer):
    """For parameters that are matrices. lr is in the units of AdamW's."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, cols), matrices in by_shape.items():
                updates = []
                for matrix in matrices:
                    momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                    momentum.lerp_(matrix.grad, 1 - group["momentum"])  # type: ignore[arg-type]
                    updates.append(torch.lerp(matrix.grad, momentum, group["momentum"]))  # type: ignore[arg-type]
                rate = group["lr"] * 0.2 * math.sqrt(max(rows, cols))
                for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """(count, rows, cols): each about U V', of its singular value decomposition U S V', by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
