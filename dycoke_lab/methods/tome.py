"""ToMe (arXiv 2210.09461) within frames: the most similar pairs of tokens become one, pass by pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.merger_parts import ShareMerger, cosines, over_video, precise, share_of


@dataclass(frozen=True)
class ToMe(ShareMerger):
    """Merge in each frame the most similar pairs of tokens, an even and an odd one, until a share is
    left; a token is the mean of all that it stands for.

    ratio: the share of a frame's tokens that are left, above 0 to 1, to the nearest, halves up.
    r: the share of a frame's tokens that one pass merges (the paper's 8 of 196, ViT-L), to the nearest,
        at least one token, at most half of those left. An odd token may get several even ones in one
        pass.

    Differs: all passes after the vision tower, on the tokens that the LLM gets; the paper's are one in
    each of its layers, by its keys. `ratio` is ours; the paper fixes the number of passes. The video's
    order; the code puts odd tokens last. No attention weighted by sizes. Cosines count to six decimals.
    """

    ratio: float = 0.5
    r: float = 8 / 196

    label: ClassVar[str] = "ToMe within frames"
    colour: ClassVar[str] = "#9ecae1"
    paper: ClassVar[str] = "arXiv 2210.09461, 3"
    knob: ClassVar[str] = "ratio"
    shares: ClassVar[tuple[str, ...]] = ("r",)

    def merge(self, video: VideoTokens) -> Assignment:
        means = precise(video.features.flatten(2, 3))
        videos, frames, tokens, dim = means.shape
        alive = torch.arange(tokens, device=means.device).expand(videos, frames, tokens)
        slot, sizes, left = alive, torch.ones_like(means[..., :1]), share_of(tokens, self.ratio)
        while (now := alive.shape[2]) > left:
            close = cosines(means[:, :, ::2], means[:, :, 1::2])
            partner = 2 * close.argmax(-1) + 1
            pairs = min(now - left, now // 2, share_of(tokens, self.r))
            gone = 2 * close.amax(-1).argsort(dim=-1, descending=True, stable=True)[..., :pairs]
            numbers = torch.arange(now, device=means.device).expand(videos, frames, now)
            ends = numbers.scatter(2, gone, partner.gather(2, gone // 2))
            at = ends[..., None].expand(-1, -1, -1, dim)
            means = torch.zeros_like(means).scatter_add(2, at, means * sizes)
            sizes = torch.zeros_like(sizes).scatter_add(2, ends[..., None], sizes)
            stays = ends == numbers
            index = (~stays).int().argsort(dim=-1, stable=True)[..., : now - pairs]
            slot = (stays.cumsum(-1) - 1).gather(2, ends).gather(2, slot)
            alive, sizes = alive.gather(2, index), sizes.gather(2, index[..., None])
            means = means.gather(2, index[..., None].expand(-1, -1, -1, dim)) / sizes
        return Assignment(over_video(alive.gather(2, slot)), average=True)
