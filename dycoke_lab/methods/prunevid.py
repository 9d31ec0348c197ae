"""PruneVid before the language model (arXiv 2412.16117, 3.1): static tokens of a window are averaged
over its frames; static tokens, and the others of each frame, are clustered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dycoke_lab.methods.base import Merger
from dycoke_lab.methods.clustering import density_peaks
from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.parameter_checks import check_between, check_positions, check_share
from dycoke_lab.methods.segments import contiguous

NEIGHBOURS = 7


@dataclass(frozen=True)
class PruneVid(Merger):
    """Average the tokens that stay alike in a window of frames, and cluster these means, and the other
    tokens of each frame, each cluster becoming one token.

    cluster_ratio: n tokens become int(n cluster_ratio) clusters, at least 1; above 0 to 1. As in the
        code, one ratio for static tokens and for the others of each frame, so that it alone reaches any
        share up to what averaging leaves.
    tau: a place is static in a window if its tokens' mean cosine, over pairs of frames, is above tau.
    temporal_segment_ratio: frames (means of their tokens) are clustered to int(frames ratio), at least
        1, and the clusters are made contiguous windows (`segments.contiguous`); above 0 to 1.
    whole: groups of up to this share of a frame's tokens are not clustered; the paper's code: 14 of 144.
    positions: "original" keeps the position ids of retained tokens; "repacked" numbers them anew.

    Differs: a static token stands at its place in the window's first frame, a cluster at its centre's,
    all in the video's order, not static ones before the others. In a window of one frame nothing is
    static (the code divides 0 by 0). Defaults are those of the authors' scripts.
    """

    cluster_ratio: float = 0.5
    tau: float = 0.8
    temporal_segment_ratio: float = 0.25
    whole: float = 14 / 144
    positions: Literal["original", "repacked"] | Any = "original"

    label: ClassVar[str] = "PruneVid, before the LLM"
    colour: ClassVar[str] = "#7fb800"
    paper: ClassVar[str] = "arXiv 2412.16117, 3"
    knob: ClassVar[str] = "cluster_ratio"

    def __post_init__(self) -> None:
        for name in ("cluster_ratio", "temporal_segment_ratio"):
            check_share(name, getattr(self, name))
        check_between("tau", self.tau, -1)
        check_between("whole", self.whole)
        check_positions(self.positions)

    def merge(self, video: VideoTokens) -> Assignment:
        into = [self._into(frames.double()) for frames in video.features.flatten(2, 3)]
        return Assignment(torch.stack(into), average=True)

    def _into(self, frames: Tensor) -> Tensor:
        """What each token of one video, (frames, tokens, dim), is merged into."""
        count = max(1, int(len(frames) * self.temporal_segment_ratio + 1e-9))
        labels = density_peaks(frames.mean(1)[None], count, NEIGHBOURS).into[0].tolist()
        into = torch.arange(frames[..., 0].numel(), device=frames.device).view(frames.shape[:2])
        for window in contiguous(labels):
            here, rows = frames[window.start : window.stop], into[window.start : window.stop]
            static = mean_cosine_of_pairs(here) > self.tau
            at, other = static.nonzero()[:, 0], (~static).nonzero()[:, 0]
            if len(at):
                rows[:, at] = rows[0, at[self._centres(here[:, at].mean(0)[None], len(static))[0]]]
            if len(other):
                rows[:, other] = rows[:, other].gather(1, self._centres(here[:, other], len(static)))
        return into.flatten()

    def _centres(self, groups: Tensor, size: int) -> Tensor:
        """The number of each token's centre in its group, (groups, tokens), in frames of so many
        tokens."""
        count = groups.shape[1]
        if count > int(size * self.whole + 1e-9):
            count = max(1, int(count * self.cluster_ratio + 1e-9))
        return density_peaks(groups, count, NEIGHBOURS).into


def mean_cosine_of_pairs(frames: Float[Tensor, "frames tokens dim"]) -> Float[Tensor, " tokens"]:
    """Return for each place the mean cosine of its tokens in two different frames; NaN if there is one.

    >>> mean_cosine_of_pairs(torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[0.0, 3.0]]]))  # of 1, 0, 0
    tensor([0.3333])
    """
    unit, pairs = F.normalize(frames, dim=-1), len(frames) * (len(frames) - 1)
    return (unit.sum(0).square().sum(-1) - unit.square().sum((0, 2))) / (pairs or torch.nan)
