"""EVS, efficient video sampling (arXiv 2510.14624): tokens that changed since the frame before."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import torch

from dycoke_lab.methods.base import Merger
from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.merger_parts import precise, settled
from dycoke_lab.methods.parameter_checks import check_positions


@dataclass(frozen=True)
class EVS(Merger):
    """Keep the first frame, and of all later ones the tokens least like the same place of the frame
    before.

    q: the share of the video's tokens to drop, 0 to 1 (the paper's example is 0.75). int((1 - q) *
        tokens) are kept, at least a frame.

    Differs: as vLLM's code, by the cosine of the tokens; the paper compares pixels. Cosines count to six
    decimals, so that what does not change at all ties.
    """

    q: float = 0.75
    positions: Literal["original", "repacked"] | Any = "original"

    label: ClassVar[str] = "EVS"
    colour: ClassVar[str] = "#2171b5"
    paper: ClassVar[str] = "arXiv 2510.14624, 3"
    knob: ClassVar[str] = "q"

    def __post_init__(self) -> None:
        if not isinstance(self.q, Real) or not 0 <= self.q <= 1:
            raise ValueError(f"q={self.q!r} must be a share from 0 to 1")
        check_positions(self.positions)

    @property
    def off(self) -> bool:
        return self.q == 0

    def merge(self, video: VideoTokens) -> Assignment:
        features = precise(video.features.flatten(2, 3))
        videos, frames, tokens, _ = features.shape
        later, earlier = features[:, 1:], features[:, :-1]
        lengths = later.norm(dim=-1) * earlier.norm(dim=-1)
        like = settled((later * earlier).sum(-1) / lengths.clamp(min=1e-8)).flatten(1)
        like = torch.cat([like.new_full((videos, tokens), -torch.inf), like], 1)
        count = max(tokens, int((1 - self.q) * frames * tokens + 1e-9))
        kept = torch.zeros_like(like, dtype=torch.bool)
        return Assignment.keep(kept.scatter(1, like.argsort(dim=-1, stable=True)[:, :count], True))
