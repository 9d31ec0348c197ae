"""What a step is given of an attention call only if the method asks for it, at the visual tokens.

column, there: (batch, 1 or key heads, visual), each token's column among the call's keys, and whether
it is there."""

from __future__ import annotations

from torch import Tensor

from dycoke_lab.methods.scores import window_attention
from dycoke_lab.runtime.attention_hooks import Call


def attention_over_visual(call: Call, window: int, column: Tensor, there: Tensor) -> Tensor:
    """Return the attention of the call's last queries, (batch, heads, window, visual)."""
    attention = window_attention(*call[1:], window)
    groups = attention.shape[1] // column.shape[1]
    column, there = (part.repeat_interleave(groups, 1)[:, :, None] for part in (column, there))
    return attention.gather(3, column.expand(-1, -1, attention.shape[2], -1)) * there


def keys_of_visual(call: Call, column: Tensor, there: Tensor) -> Tensor:
    """Return the keys, (batch, key heads, visual, dim)."""
    column, there = (part.expand(-1, call.key.shape[1], -1) for part in (column, there))
    index = column[..., None].expand(*column.shape, call.key.shape[3])
    return call.key.gather(2, index) * there[..., None]
