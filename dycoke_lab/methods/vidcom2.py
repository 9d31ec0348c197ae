"""VidCom2 (arXiv 2505.14454): tokens unlike the video and their frame, more of frames that are unlike
the video."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.merger_parts import ShareMerger, precise, settled
from dycoke_lab.methods.scores import top

ALPHAS = (1 / 8, 1 / 4, 1 / 2, 1, 2)


@dataclass(frozen=True)
class VidCom2(ShareMerger):
    """Keep in each frame the tokens that are least like the video's mean and the frame's; frames that
    are least like the video's mean get more.

    R: the share of tokens kept, above 0 to 1 (the paper's 0.25).
    temperature: of the softmax over frames, above 0 (0.01). A frame keeps R * (1 + its softmax - the
    mean softmax) of its tokens, at most all, to the nearest, halves up, at least 1. Likeness is a sum of
    Gaussians of the distance, in the half of the channels with the lowest variance.

    Differs: no newline tokens, which the code keeps. Likeness counts to six decimals.
    """

    R: float = 0.25
    temperature: float = 0.01

    label: ClassVar[str] = "VidCom2"
    colour: ClassVar[str] = "#6baed6"
    paper: ClassVar[str] = "arXiv 2505.14454, frame compression adjustment"
    knob: ClassVar[str] = "R"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.temperature, Real) or not 0 < self.temperature < inf:
            raise ValueError(f"temperature={self.temperature!r} must be a number above 0")

    def merge(self, video: VideoTokens) -> Assignment:
        features = precise(video.features.flatten(2, 3))
        variance = features.flatten(1, 2).var(1, unbiased=False)
        variance = settled(variance / variance.mean(-1, keepdim=True).clamp(min=1e-30))
        low = variance.argsort(dim=-1, stable=True)[:, : max(1, variance.shape[1] // 2)]
        features = F.normalize(features.gather(3, low[:, None, None].expand(*features.shape[:3], -1)), dim=-1)
        of_video = likeness(features, features.mean((1, 2), keepdim=True))
        of_frame = likeness(features, features.mean(2, keepdim=True))
        unlike = (-settled(of_video.mean(-1).double()) / self.temperature).softmax(-1)
        share = (self.R * (1 + unlike - unlike.mean(-1, keepdim=True))).clamp(max=1)
        count = (share * features.shape[2] + 0.5 + 1e-9).long().clamp(min=1)
        scores = settled(of_video + of_frame)
        return Assignment.keep(top(-scores, torch.ones_like(scores, dtype=torch.bool), count).flatten(1))


def likeness(
    tokens: Float[Tensor, "videos frames tokens dim"], mean: Float[Tensor, "videos _ 1 dim"]
) -> Float[Tensor, "videos frames tokens"]:
    """Return the sum of Gaussians of each token's distance to a mean."""
    squares = (tokens - mean).square().sum(-1)
    return torch.stack([(-squares / (2 * alpha)).exp() for alpha in ALPHAS]).sum(0)
