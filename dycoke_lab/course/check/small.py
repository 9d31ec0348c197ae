"""Small numbers for checks of exercises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def drawn(seed: int, *size: int) -> Tensor:
    """Return numbers from 0 to 1, most of them small, as attention is."""
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)) ** 3


def listed(values: Any) -> str:
    """Return numbers as a text, with two digits at most."""
    return ", ".join(f"{value:.2f}".rstrip("0").rstrip(".") for value in values)
