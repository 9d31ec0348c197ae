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
CHUNK = 80  # queries at a time


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

    query: (batch, heads, length, dim). key, value: (batch, kv_heads, length, dim). attention_mask: additive
    and causal, the same for the whole batch; or None.
    """
    batch, heads, length, dim = query.shape
    kv_heads, groups = key.shape[1], heads // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.to(value.dtype), key.to(value.dtype)
        rows = query.reshape(batch * kv_heads, groups, length, dim)  # the queries of each key head
        columns, values = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)
        if attention_mask is None:
            scores = rows.flatten(1, 2) @ columns * scaling
            out = (scores.softmax(-1) @ values).view(batch, heads, length, dim)
            return out.transpose(1, 2).contiguous(), None
        mask, parts = attention_mask[0, 0].to(value.dtype), []
        for start in range(0, length, CHUNK):  # a causal mask: later columns need not be computed
            end = min(length, start + CHUNK)
            some = rows[:, :, start:end].reshape(len(rows), -1, dim)
            hidden = mask[start:end, :end].repeat(groups, 1)
            scores = torch.baddbmm(hidden, some, columns[:, :, :end], alpha=scaling)
            parts.append((scores.softmax(-1) @ values[:, :end]).view(len(rows), groups, -1, dim))
        out = torch.cat(parts, 2).reshape(batch, heads, length, dim)
    return out.transpose(1, 2).contiguous(), None


def register() -> str:
    """Make it known to transformers, and return its name."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    return NAME
