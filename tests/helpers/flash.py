"""A stand-in for FlashAttention, whose kernel needs a GPU: its masks are (batch, keys), or there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

FLASH = "tests_flash"


def register_flash() -> None:
    """Let models name it as their attention implementation."""
    AttentionInterface.register(FLASH, _flash)
    AttentionMaskInterface.register(FLASH, flash_attention_mask)


def _flash(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **others: Any
) -> tuple[Tensor, None]:
    assert module.config._attn_implementation == FLASH  # by it the real one loads its kernel
    position_ids = others.get("position_ids")
    assert position_ids is None or position_ids.shape[-1] == query.shape[2]
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * scaling
    rows, columns = scores.shape[-2:]
    hidden = torch.ones(rows, columns, dtype=torch.bool).triu(1 + columns - rows)
    if mask is not None:
        assert mask.shape == (len(query), columns)
        hidden = hidden | ~mask.bool()[:, None, None]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), None
