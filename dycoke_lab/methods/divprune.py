"""DivPrune (arXiv 2503.02175): tokens that are far from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.merger_parts import ShareMerger, precise, settled, share_of

ROWS = 256  # compared with all tokens at once


@dataclass(frozen=True)
class DivPrune(ShareMerger):
    """Keep a set of the video's tokens whose smallest distance (1 - cosine) is large: first the token
    whose nearest is farthest, then, one after the other, the one that is farthest from those chosen.

    ratio: the share of the video's tokens kept, above 0 to 1 (the code's 0.098), to the nearest, halves
        up.

    Differs: over the whole video, as the code takes all visual tokens of a prompt. The system prompt's
    length is not fixed at 35. Cosines count to six decimals.
    """

    ratio: float = 0.098

    label: ClassVar[str] = "DivPrune"
    colour: ClassVar[str] = "#4292c6"
    paper: ClassVar[str] = "arXiv 2503.02175, max-min diversity"
    knob: ClassVar[str] = "ratio"

    def merge(self, video: VideoTokens) -> Assignment:
        tokens = F.normalize(precise(video.features.flatten(1, 3)), dim=-1, eps=1e-8)
        chosen = _nearest(tokens).argmin(-1, keepdim=True)
        kept = torch.zeros_like(tokens[..., 0], dtype=torch.bool).scatter(1, chosen, True)
        near = torch.full_like(tokens[..., 0], -torch.inf)  # the cosine to the nearest chosen one
        for _ in range(share_of(tokens.shape[1], self.ratio) - 1):
            one = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
            near = near.maximum(settled(one @ tokens.mT)[:, 0])
            chosen = near.masked_fill(kept, torch.inf).argmin(-1, keepdim=True)
            kept = kept.scatter(1, chosen, True)
        return Assignment.keep(kept)


def _nearest(tokens: Tensor) -> Tensor:
    """The cosine of each token and the one nearest to it, some rows at a time: the square is large."""
    found, numbers = [], torch.arange(tokens.shape[1], device=tokens.device)
    for rows in numbers.split(ROWS):
        close = settled(tokens[:, rows] @ tokens.mT).masked_fill(numbers == rows[:, None], -torch.inf)
        found.append(close.amax(-1))
    return torch.cat(found, 1)
