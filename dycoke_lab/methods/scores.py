"""Pure functions on attention scores: what a token's score is, how many tokens to keep, and which."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def retained_budget(candidates: Bool[Tensor, "*rows visual"], prune_ratio: float) -> Int[Tensor, "*rows"]:
    """Return how many tokens to keep: (1 - prune_ratio) of the candidates, to the nearest, halves up; at
    least 1 if there is one.

    >>> retained_budget(torch.ones(20, dtype=torch.bool), prune_ratio=0.9)
    tensor(2)
    """
    count = candidates.sum(-1)
    return ((1 - float(prune_ratio)) * count.double() + 0.5 + 1e-9).long().clamp(min=1).minimum(count)


def top(
    scores: Float[Tensor, "*rows visual"],
    candidates: Bool[Tensor, "*rows visual"],
    budget: Int[Tensor, "*rows"],
) -> Bool[Tensor, "*rows visual"]:
    """Return the `budget` candidates with the highest scores; of equal scores the earlier token wins.

    >>> scores, there = torch.tensor([0.1, 0.6, 0.3]), torch.tensor([True, False, True])
    >>> top(scores, there, budget=torch.tensor(1))
    tensor([False, False,  True])
    """
    order = torch.where(candidates, scores, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.arange(scores.shape[-1], device=scores.device)
    return torch.zeros_like(candidates).scatter(-1, order, rank < budget[..., None]) & candidates


def unit_vectors(features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Return them with length 1 (0 stays 0), in float32 or finer. Methods round cosines of these to 6
    decimals, so that those of equal tokens are equal."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1, eps=1e-8)


def has_moved(
    scores: Float[Tensor, "*rows visual"], previous: Float[Tensor, "*rows visual"], below: float
) -> Bool[Tensor, "*rows"]:
    """Return whether the cosine between adjacent steps' attention is below this."""
    return F.cosine_similarity(scores.float(), previous.float(), dim=-1) < float(below)


def last_query_attention(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    mask: Tensor | None,
    scaling: float,
) -> Float[Tensor, "batch heads keys"]:
    """Return the attention of the last query over all keys: one row, never the square. Softmax in float32, as
    stock's eager attention. mask: as `visible` takes it."""
    batch, heads, _, dim = query.shape
    row = (query[:, :, -1] * scaling).reshape(batch * key.shape[1], -1, dim)
    logits = torch.bmm(row, key.flatten(0, 1).transpose(1, 2)).view(batch, heads, -1).float()
    if mask is not None:
        logits = logits.masked_fill(~visible(mask, key.shape[2]), -torch.inf)
    return logits.softmax(-1)


def window_attention(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    mask: Tensor | None,
    scaling: float,
    window: int,
) -> Float[Tensor, "batch heads window keys"]:
    """Return the attention of the last `window` queries (of all, if there are fewer) over all keys: causal,
    unless a mask of each query's own says otherwise, as for images whose tokens see each other. A query whose
    own key is hidden is padding, and has none."""
    batch, heads, _, dim = query.shape
    window, keys = min(window, query.shape[2]), key.shape[2]
    rows = (query[:, :, -window:] * scaling).reshape(batch, key.shape[1], -1, dim)
    logits = (rows @ key.transpose(2, 3)).view(batch, heads, window, keys).float()
    if mask is not None and mask.ndim == 4:
        seen = mask[:, :, -window:, :keys]
        allowed = seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2
        allowed = allowed & allowed.diagonal(keys - window, -2, -1)[..., None]
    else:
        allowed = torch.ones(window, keys, dtype=torch.bool, device=key.device).tril(keys - window)
        if mask is not None:  # FlashAttention's
            allowed = allowed & mask[:, None, None, -keys:].bool()
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0)


def visible(mask: Tensor, keys: int) -> Bool[Tensor, "batch heads keys"]:
    """Return which keys the last query may attend to, from an attention function's mask: (batch or 1, 1 or
    heads, queries, keys), True or 0 where it may; or FlashAttention's, (batch, keys)."""
    last = mask[:, None, -keys:] if mask.ndim == 2 else mask[:, :, -1, :keys]
    if last.dtype == torch.bool:
        return last
    return last.bool() if mask.ndim == 2 else last > torch.finfo(last.dtype).min / 2
