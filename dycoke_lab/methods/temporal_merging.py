"""Temporal token merging (TTM), the first stage of DyCoke (arXiv 2411.15024, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.base import Merger
from dycoke_lab.methods.interface import Assignment, VideoTokens

# how many frames back the reference lies, by the offset in the window
REFERENCES: dict[str, Callable[[int], int]] = {
    "paper": lambda offset: 1 if offset % 2 else 2,
    "first": lambda offset: offset,
    "previous": lambda offset: 1,
}


@dataclass(frozen=True)
class TTM(Merger):
    """Merge away visual tokens that repeat an earlier frame of their window.

    merge_ratio: K, the share of tokens removed from the later frames of each window, 0 to 1. threshold:
        instead of K, remove every token at least this similar (cosine, -1 to 1) to its reference.
    window: frames a window, from 2; the paper's is 4.
    reference: the frame that a later frame of the window is compared with: "paper": at an odd offset the one
        before, at an even offset the one two before; "first": the window's first; "previous": the one before.
    combine: "drop" removes tokens (the paper); "average" folds them into the token they repeat.
    positions: "original" keeps the position ids of retained tokens; "repacked" numbers them anew.

    >>> TTM()
    TTM(merge_ratio=0.7, threshold=None, window=4, combine='drop', positions='original', reference='paper')
    """

    merge_ratio: float | None = None
    threshold: float | None = None
    window: int = 4
    combine: Literal["drop", "average"] | Any = "drop"
    positions: Literal["original", "repacked"] | Any = "original"
    reference: Literal["paper", "first", "previous"] | Any = "paper"

    label: ClassVar[str] = "temporal merging (TTM)"
    colour: ClassVar[str] = "#e69f00"
    paper: ClassVar[str] = "arXiv 2411.15024, 3.2"
    knob: ClassVar[str] = "merge_ratio"

    def __post_init__(self) -> None:
        if self.merge_ratio is None and self.threshold is None:
            object.__setattr__(self, "merge_ratio", 0.7)  # the paper's; here, so that TTM() == TTM(0.7)
        _check(self.merge_ratio, self.threshold, self.window, self.combine)
        if self.positions not in ("original", "repacked"):
            raise ValueError(f"positions={self.positions!r} must be 'original' or 'repacked'")
        references(2, self.window, self.reference)  # which checks it

    @property
    def off(self) -> bool:
        return self.merge_ratio == 0

    def merge(self, video: VideoTokens) -> Assignment:
        features = video.features.flatten(2, 3)  # a frame's tokens in a row
        keep, _ = keep_mask(features, self.merge_ratio, self.window, self.threshold, self.reference)
        into = merged_into(keep, self.window, self.reference)
        return Assignment(into, average=self.combine == "average")


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
    combine: str = "drop",
    reference: str = "paper",
) -> Merged:
    """Remove the visual tokens that repeat an earlier frame of their window.

    Frames are taken in windows. A window's first frame is kept whole; the frame at an odd offset is compared,
    slot by slot, with the frame before it, at an even offset with the one two before. In each compared
    frame the most similar tokens go: merge_ratio (K) of them, to the nearest whole token kept, or, with
    `threshold` instead of a ratio, every token whose cosine similarity is at least that (to within 1e-6,
    since equal tokens' cosines are not exactly 1). reference: another frame to compare with, as TTM's.

    A token whose reference was itself merged is followed to the kept token at the chain's end.
    Raises ValueError for features that are not (frames, tokens, dim) and for settings out of range.
    Source: paper, section 3.2. Unlike the reference code it keeps odd last frames and any frame count.

    Two frames of two tokens, of which the first repeats:

    >>> first, second = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]
    >>> merged = temporal_merge(torch.tensor([first, second]), merge_ratio=0.5)
    >>> merged.kept.tolist(), merged.into.tolist(), merged.retained
    ([0, 1, 3], [0, 1, 0, 3], 0.75)
    """
    _check(merge_ratio, threshold, window, combine)
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(
            f"features has shape {tuple(features.shape)}: it must be (frames, tokens, dim), none of them 0"
        )
    keep, similarity = keep_mask(features[None], merge_ratio, window, threshold, reference)
    into = merged_into(keep, window, reference)[0]
    keep, similarity = keep[0], similarity[0]
    kept = keep.flatten().nonzero()[:, 0]
    flat = features.flatten(0, 1)
    if combine == "average":
        flat = average_into(flat[None], into[None])[0]
    return Merged(kept, into, similarity, flat[kept])


def references(frames: int, window: int, reference: str = "paper") -> list[int | None]:
    """Return the frame that each frame is compared with; None for a window's first. reference: as TTM's.

    >>> references(frames=6, window=4)
    [None, 0, 0, 2, None, 4]
    >>> references(6, 4, "first"), references(6, 4, "previous")
    ([None, 0, 0, 0, None, 4], [None, 0, 1, 2, None, 4])
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference={reference!r} must be 'paper', 'first' or 'previous'")
    back = REFERENCES[reference]
    return [frame - back(offset) if (offset := frame % window) else None for frame in range(frames)]


def keep_mask(
    features: Float[Tensor, "batch frames tokens dim"],
    ratio: float | None,
    window: int,
    threshold: float | None = None,
    reference: str = "paper",
) -> tuple[Bool[Tensor, "batch frames tokens"], Float[Tensor, "batch frames tokens"]]:
    """Return which tokens remain, and every token's cosine similarity to its reference (NaN where it has
    none)."""
    batch, frames, tokens, _ = features.shape
    keep = torch.ones(batch, frames, tokens, dtype=torch.bool, device=features.device)
    similarity = torch.full((batch, frames, tokens), torch.nan, device=features.device)
    pairs = [(f, r) for f, r in enumerate(references(frames, window, reference)) if r is not None]
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
    """Return (1 - ratio) * tokens to the nearest whole token, halves up (round() would send them to even
    numbers)."""
    return int((1 - ratio) * tokens + 0.5 + 1e-9)


def merged_into(
    keep: Bool[Tensor, "batch frames tokens"], window: int, reference: str = "paper"
) -> Int[Tensor, "batch all"]:
    """Return, for every token, the kept token it was merged into."""
    batch, frames, tokens = keep.shape
    into = torch.arange(frames * tokens, device=keep.device).view(frames, tokens).repeat(batch, 1, 1)
    for frame, earlier in enumerate(references(frames, window, reference)):
        if earlier is not None:
            into[:, frame] = torch.where(keep[:, frame], into[:, frame], into[:, earlier])
    return into.flatten(1)


def average_into(
    features: Float[Tensor, "batch all dim"], into: Int[Tensor, "batch all"]
) -> Float[Tensor, "batch all dim"]:
    """Return features in which each kept token is the mean of itself and all that was merged into it, the
    others 0. A token with into = -1 counts nowhere."""
    counts = (into >= 0).to(features.dtype)
    index = into.clamp(min=0)
    sums = torch.zeros_like(features).scatter_add(
        1, index[..., None].expand_as(features), features * counts[..., None]
    )
    size = torch.zeros_like(counts).scatter_add(1, index, counts)
    return sums / size.clamp(min=1)[..., None]


def _check(ratio: float | None, threshold: float | None, window: int, combine: str) -> None:
    """Raise ValueError, naming the argument, for settings that temporal merging cannot run with."""
    if ratio is not None and threshold is not None:
        raise ValueError(f"give either merge_ratio={ratio} or threshold={threshold}, not both")
    if threshold is None and (not isinstance(ratio, Real) or not 0 <= ratio <= 1):
        raise ValueError(
            f"merge_ratio={ratio!r} must lie between 0 (merge nothing) and 1, or give threshold instead"
        )
    if threshold is not None and (not isinstance(threshold, Real) or not -1 <= threshold <= 1):
        raise ValueError(f"threshold={threshold!r} is a cosine similarity: it must lie between -1 and 1")
    if not isinstance(window, int) or window < 2:
        raise ValueError(f"window={window} must be a whole number of frames from 2")
    if combine not in ("drop", "average"):
        raise ValueError(f"combine={combine!r} must be 'drop' or 'average'")
