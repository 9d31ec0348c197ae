"""VisionZip (arXiv 2412.04467): tokens that the vision tower attends to, and sums of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from numbers import Real
from typing import Any, ClassVar, Literal

import torch

from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.merger_parts import ShareMerger, cosines, over_video, precise, share_of
from dycoke_lab.methods.scores import top
from dycoke_lab.methods.temporal_merging import average_into


@dataclass(frozen=True)
class VisionZip(ShareMerger):
    """Keep in each frame the tokens that receive most attention, and a few others that the rest is
    merged into.

    dominant: the share of a frame's tokens kept by attention, above 0 to 1 (the paper's 191 of 576), to
        the nearest, halves up. contextual: targets for each dominant token, from 0 (30 for 191).
    A target becomes itself plus the mean of the tokens whose keys are nearest to its own (cosine).
    Targets are every (rest // targets)-th of the rest.
    positions: "repacked", as in the code, which does this before the LLM; with M-RoPE (Qwen3-VL) that
    loses rows and columns, and "original" keeps them.

    Differs: no class token: attention received, of layer -2. The paper's image is a frame here, its
    tokens are those that the LLM gets, after the model's pooling. Keys of all heads side by side, not
    their mean. The video's order; the code puts dominant tokens first.
    """

    dominant: float = 191 / 576
    contextual: float = 30 / 191
    positions: Literal["original", "repacked"] | Any = field(default="repacked", kw_only=True)

    label: ClassVar[str] = "VisionZip (attention received)"
    colour: ClassVar[str] = "#08519c"
    paper: ClassVar[str] = "arXiv 2412.04467, dominant and contextual tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"vision_attention:-2", "vision_keys:-2"})
    knob: ClassVar[str] = "dominant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.contextual, Real) or not 0 <= self.contextual < inf:
            raise ValueError(f"contextual={self.contextual!r} must be a number from 0")

    def merge(self, video: VideoTokens) -> Assignment:
        assert video.vision_attention is not None and video.vision_keys is not None
        received, keys = video.vision_attention.flatten(2), video.vision_keys.flatten(2, 3)
        tokens = received.shape[2]
        count = share_of(tokens, self.dominant)
        rest = tokens - count
        everything = torch.ones_like(received, dtype=torch.bool)
        kept = top(received, everything, torch.full_like(received[..., 0], count, dtype=torch.long))
        into = torch.where(kept, torch.arange(tokens, device=kept.device), -1)
        targets = min(rest, int(self.contextual * count + 0.5 + 1e-9))
        if targets:
            others = kept.int().argsort(dim=-1, stable=True)[..., :rest]
            ends = others[..., :: max(1, rest // targets)][..., :targets]
            mine, theirs = (
                keys.gather(2, at[..., None].expand(*at.shape, keys.shape[-1])) for at in (others, ends)
            )
            into = into.scatter(2, others, ends.gather(2, cosines(mine, theirs).argmax(-1)))
            into = into.scatter(2, ends, ends)
        whole, features = over_video(into), precise(video.features.flatten(1, 3))
        own = whole == torch.arange(whole.shape[1], device=whole.device)
        return Assignment(whole, features=features + average_into(features, whole.masked_fill(own, -1)))
