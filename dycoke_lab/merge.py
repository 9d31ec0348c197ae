"""Temporal token merging (TTM), the first stage of DyCoke (paper, section 3.2): pure tensor functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.config import check_merge


@dataclass(frozen=True)
class Merged:
    """What temporal merging leaves of one video; tokens are numbered frame by frame, frame * tokens + slot.

    kept: the indices that remain, in order. into: for every token the kept token it was merged into,
    itself if it was kept. similarity: cosine of each token with its reference, NaN in a window's first
    frame. features: what the kept tokens hold: their own features, or the mean over all merged into them.
    """

    kept: Int[Tensor, " kept"]
    into: Int[Tensor, " all"]
    similarity: Float[Tensor, "frames tokens"]
    features: Float[Tensor, "kept dim"]

    @property
    def retained(self) -> float:
        """Share of tokens kept, 0 to 1."""
        return len(self.kept) / len(self.into)


def temporal_merge(
    features: Float[Tensor, "frames tokens dim"],
    merge_ratio: float | None = None,
    window: int = 4,
    *,
    threshold: float | None = None,
    merge: str = "drop",
) -> Merged:
    """Remove the visual tokens that repeat an earlier frame of their window.

    Frames are taken in windows. A window's first frame is kept whole; the frame at an odd offset is compared,
    slot by slot, with the frame before it, at an even offset with the one two before. In each compared
    frame the most similar tokens go: merge_ratio (K) of them, to the nearest whole token kept, or, with `threshold`
    instead of a ratio, every token whose cosine similarity is at least that (to within 1e-6, since equal tokens' cosines are not
    exactly 1).

    A token whose reference was itself merged is followed to the kept token at the chain's end.
    Raises ValueError for features that are not (frames, tokens, dim) and for settings out of range.
    Source: paper, section 3.2. Unlike the reference code it keeps odd last frames and any frame count.
    """
    check_merge(merge_ratio, threshold, window, merge)
    if merge_ratio is not None and threshold is not None:
        raise ValueError(f"give either merge_ratio={merge_ratio} or threshold={threshold}, not both")
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(f"features has shape {tuple(features.shape)}: it must be (frames, tokens, dim), none of them 0")
    keep, similarity = keep_mask(features[None], merge_ratio, window, threshold)
    into = merged_into(keep, window)[0]
    keep, similarity = keep[0], similarity[0]
    kept = keep.flatten().nonzero()[:, 0]
    flat = features.flatten(0, 1)
    if merge == "average":
        flat = average_into(flat[None], into[None])[0]
    return Merged(kept, into, similarity, flat[kept])


def references(frames: int, window: int) -> list[int | None]:
    """The frame that each frame is compared with; None for a window's first."""
    return [None if (o := f % window) == 0 else f - 1 if o % 2 else f - 2 for f in range(frames)]


def keep_mask(
    features: Float[Tensor, "batch frames tokens dim"], ratio: float | None, window: int, threshold: float | None = None
) -> tuple[Bool[Tensor, "batch frames tokens"], Float[Tensor, "batch frames tokens"]]:
    """Which tokens remain, and every token's cosine similarity to its reference (NaN where it has none)."""
    batch, frames, tokens, _ = features.shape
    keep = torch.ones(batch, frames, tokens, dtype=torch.bool, device=features.device)
    similarity = torch.full((batch, frames, tokens), torch.nan, device=features.device)
    pairs = [(f, r) for f, r in enumerate(references(frames, window)) if r is not None]
    if not pairs:
        return keep, similarity
    later, earlier = (list(x) for x in zip(*pairs, strict=True))
    close = F.cosine_similarity(features[:, later].float(), features[:, earlier].float(), dim=-1)
    similarity[:, later] = close
    if threshold is not None:
        keep[:, later] = close < threshold - 1e-6
    elif gone := tokens - retained_count(tokens, ratio or 0.0):
        order = close.argsort(dim=-1, descending=True, stable=True)
        keep[:, later] = torch.ones_like(close, dtype=torch.bool).scatter(-1, order[..., :gone], False)
    return keep, similarity


def retained_count(tokens: int, ratio: float) -> int:
    """(1 - ratio) * tokens to the nearest whole token, halves up (round() would send them to even numbers)."""
    return int((1 - ratio) * tokens + 0.5 + 1e-9)


def merged_into(keep: Bool[Tensor, "batch frames tokens"], window: int) -> Int[Tensor, "batch all"]:
    """For every token, the kept token it was merged into."""
    batch, frames, tokens = keep.shape
    into = torch.arange(frames * tokens, device=keep.device).view(frames, tokens).repeat(batch, 1, 1)
    for frame, reference in enumerate(references(frames, window)):
        if reference is not None:
            into[:, frame] = torch.where(keep[:, frame], into[:, frame], into[:, reference])
    return into.flatten(1)


def average_into(features: Float[Tensor, "batch all dim"], into: Int[Tensor, "batch all"]) -> Float[Tensor, "batch all dim"]:
    """Each kept token becomes the mean of itself and all that was merged into it; the others become 0."""
    index = into[..., None].expand_as(features)
    return torch.zeros_like(features).scatter_reduce(1, index, features, "mean", include_self=False)
