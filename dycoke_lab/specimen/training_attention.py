"""Compute attention for training on a CPU by plain products in the autocast dtype.

torch's fused attention has a slow backward pass on CPUs at these sizes (in bfloat16, two thirds of a training
step). Only training uses this; the shipped checkpoint runs on stock attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "dycoke_lab_training"


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention functions do.

    query: (batch, heads, length, dim). key, value: (batch, kv_heads, length, dim). attention_mask: additive,
    the same for the whole batch; or None.
    """
    batch, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.to(value.dtype), key.to(value.dtype)
        rows = query.reshape(batch * kv_heads, -1, dim)  # the queries of a key head, one below the other
        columns = key.flatten(0, 1).transpose(1, 2)
        if attention_mask is None:
            scores = rows @ columns * scaling
        else:
            mask = attention_mask[0].to(value.dtype).repeat(1, heads // kv_heads, 1)
            scores = torch.baddbmm(mask, rows, columns, alpha=scaling)
        out = scores.softmax(-1) @ value.flatten(0, 1)
    return out.view(batch, heads, length, dim).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make it known to transformers, and return its name."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    return NAME
