"""What to keep at a step: pure functions on attention scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def keep_counts(available: Bool[Tensor, "batch visual"], prune_ratio: float) -> Int[Tensor, " batch"]:
    """How many visual tokens each sample retains: (1 - prune_ratio) of those available, to the nearest, halves up; at least 1, if
    there is one."""
    there = available.sum(1)
    return ((1 - prune_ratio) * there.double() + 0.5 + 1e-9).long().clamp(min=1).minimum(there)


def top(
    scores: Float[Tensor, "batch visual"], available: Bool[Tensor, "batch visual"], counts: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch visual"]:
    """The `counts` available tokens with the highest scores; of equal scores the earlier token wins."""
    order = torch.where(available, scores, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    return torch.zeros_like(available).scatter(1, order, rank < counts[:, None])


def moved(scores: Float[Tensor, "batch visual"], before: Float[Tensor, "batch visual"], gate: float) -> Bool[Tensor, " batch"]:
    """Whether a sample's attention has moved: the cosine between adjacent steps' attention is below `gate`."""
    return F.cosine_similarity(scores.float(), before.float(), dim=1) < gate


def last_query_attention(
    query: Float[Tensor, "batch heads length dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    mask: Tensor | None,
    scaling: float,
) -> Float[Tensor, "batch heads keys"]:
    """The attention of the last query over all keys, one row, never the square: softmax in float32, as stock's eager attention."""
    batch, heads, _, dim = query.shape
    row = (query[:, :, -1] * scaling).reshape(batch * key.shape[1], -1, dim)
    logits = torch.bmm(row, key.flatten(0, 1).transpose(1, 2)).view(batch, heads, -1).float()
    if mask is not None:
        logits = logits.masked_fill(~visible(mask, key.shape[2])[:, None], -torch.inf)
    return logits.softmax(-1)


def visible(mask: Tensor, keys: int) -> Bool[Tensor, "batch keys"]:
    """Which keys the last query may attend to, from an attention function's mask: (batch or 1, 1, queries, keys), True or 0
    where it may; or FlashAttention's, (batch, keys)."""
    last = mask[:, -keys:] if mask.ndim == 2 else mask[:, 0, -1, :keys]
    return last if last.dtype == torch.bool else last.bool() if mask.ndim == 2 else last > torch.finfo(last.dtype).min / 2


def free_to_look(device: torch.device) -> bool:
    """Whether the CPU can look at numbers there without waiting for another device."""
    return device.type == "cpu"
