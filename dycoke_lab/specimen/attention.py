"""Attention for training on a CPU: plain products in the autocast dtype.

torch's fused attention has a slow backward pass on CPUs at these sizes (two thirds of a training step);
this is 1.9 times faster in all. Only training uses it; the shipped checkpoint runs on stock attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "dycoke_lab_training"


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float,
           **_: Any) -> tuple[Tensor, None]:  # fmt: skip
    """query (batch, heads, length, dim); key, value (batch, kv_heads, length, dim); mask additive or None."""
    batch, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        query, key = (query * scaling).to(value.dtype), key.to(value.dtype)
        rows = query.reshape(batch, kv_heads, -1, dim)
        scores = (rows @ key.transpose(-1, -2)).view(batch, heads, length, -1)
        if attention_mask is not None:
            scores += attention_mask
        weights = scores.softmax(-1).view(batch, kv_heads, -1, scores.shape[-1])
        out = weights @ value
    return out.view(batch, heads, length, dim).transpose(1, 2).contiguous(), None


def register() -> str:
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    return NAME
