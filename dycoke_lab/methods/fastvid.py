"""FastVID (arXiv 2503.11187): salient tokens of each frame, and density peaks of each segment's anchor
frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from dycoke_lab.methods.base import Merger
from dycoke_lab.methods.clustering import highest, merged_into_peaks
from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.parameter_checks import check_between, check_positions, check_share, check_whole
from dycoke_lab.methods.segments import adjacent_similarity, cut_where_unlike

NEIGHBOURS = 4


@dataclass(frozen=True)
class FastVID(Merger):
    """Keep each frame's most attended tokens, and in every p-th frame of a segment its density peaks,
    with which the segment's other tokens are averaged.

    r: a frame's budget as a share of its N tokens, int(N r), at least 1; above 0 to 1.
    c, tau: the video is cut at the c - 1 least similar pairs of adjacent frames, and where their cosine
        is below tau (-1 to 1).
    d: the share of the budget for density peaks, int(budget d) a frame; the rest is for attended tokens.
    p: every p-th frame, counted from the segment's end, is an anchor frame. The segment's budget for
        peaks is spread on them evenly, rounded down; a frame has at most as many as it has other tokens.
    beta: the least weight of an anchor's own feature, 0 to 1; all that belong to it share the rest.
    positions: "original" keeps the position ids of retained tokens; "repacked" numbers them anew.

    Differs: attention received in the vision tower's last layer but one stands for that of SigLIP's
    pooling head; the mean of a frame's tokens for that head's feature; the earlier token for noise
    against ties. As in the code, an anchor belongs to itself. r = 1 retains 70 % of long segments.
    """

    r: float = 0.1
    c: int = 8
    tau: float = 0.9
    d: float = 0.4
    p: int = 4
    beta: float = 0.6
    positions: Literal["original", "repacked"] | Any = "original"

    label: ClassVar[str] = "FastVID (attention received)"
    colour: ClassVar[str] = "#00695c"
    paper: ClassVar[str] = "arXiv 2503.11187, 3"
    needs: ClassVar[frozenset[str]] = frozenset({"vision_attention:-2"})
    knob: ClassVar[str] = "r"

    def __post_init__(self) -> None:
        check_share("r", self.r)
        check_between("tau", self.tau, -1)
        for name in ("d", "beta"):
            check_between(name, getattr(self, name))
        for name in ("c", "p"):
            check_whole(name, getattr(self, name), 1)
        check_positions(self.positions)

    def merge(self, video: VideoTokens) -> Assignment:
        assert video.vision_attention is not None
        features, received = video.features.flatten(2, 3), video.vision_attention.flatten(2)
        _, frames, size, _ = features.shape
        budget = max(1, int(size * self.r + 1e-9))
        peaks = int(budget * self.d + 1e-9)
        salient = highest(received, budget - peaks)
        others = salient.long().argsort(dim=-1, stable=True)[..., : size - budget + peaks]
        others = others + size * torch.arange(frames, device=others.device)[:, None]
        numbers = torch.arange(frames * size, device=others.device)
        into = torch.where(salient.flatten(1), numbers, -1)
        new = features.flatten(1, 2).clone()
        for one, cosines in enumerate(adjacent_similarity(features.mean(2)).tolist()):
            for segment in cut_where_unlike(cosines, self.c, self.tau):
                here = others[one, segment.start : segment.stop]
                anchors = range((len(segment) - 1) % self.p, len(segment), self.p)
                count = min(peaks * len(segment) // len(anchors), here.shape[1])
                if count:
                    tokens = new[one, here]
                    found = merged_into_peaks(tokens, anchors, count, NEIGHBOURS, self.beta)
                    (chosen, means, ends), here = found, here.flatten()
                    into[one, here], new[one, here[chosen]] = here[ends], means
        return Assignment(into, features=new)
