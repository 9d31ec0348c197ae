"""HoliTom before the language model (arXiv 2505.21334, 3.2): windows chosen so that most tokens are
static; static tokens are averaged and clustered, of the others the most attended are kept."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dycoke_lab.methods.base import Merger
from dycoke_lab.methods.clustering import density_peaks, highest, mixed_with_members
from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.parameter_checks import check_between, check_positions, check_share, check_whole
from dycoke_lab.methods.segments import adjacent_similarity, most_static, static_places


@dataclass(frozen=True)
class HoliTom(Merger):
    """Average the tokens that stay alike in a window of frames, and keep density peaks of these means,
    and of each frame's other tokens those that receive most attention.

    retain_ratio: the share of the video's tokens to keep, above 0 to 1. Averaging saves some already: of
        a window's n static tokens round(n s) are left, and ceil(n s) of a frame's n others, where
        s = retain_ratio * tokens / (tokens - saved), at most 1.
    tau: a token is alike if its cosine with that at its place in the next frame is above tau, -1 to 1;
        the authors' scripts pair .65 with retain_ratio .1, .8 with .15. Windows: `segments.most_static`.
    beta: a density peak's weight, 0 to 1; the mean of the others in its cluster has the rest.
    k: neighbours of the clustering, from 1, at most as many as clusters.
    positions: "original" keeps the position ids of retained tokens; "repacked" numbers them anew.

    Differs: attention received in the vision tower's last layer but one. A density peak stands at its
    place in the window's first frame, all in the video's order, not static ones before the others. The
    code's contextual tokens (D), off by default, are left out.
    """

    retain_ratio: float = 0.1
    tau: float = 0.8
    beta: float = 0.6
    k: int = 7
    positions: Literal["original", "repacked"] | Any = "original"

    label: ClassVar[str] = "HoliTom, before the LLM (attention received)"
    colour: ClassVar[str] = "#4d7c0f"
    paper: ClassVar[str] = "arXiv 2505.21334, 3.2"
    needs: ClassVar[frozenset[str]] = frozenset({"vision_attention:-2"})
    knob: ClassVar[str] = "retain_ratio"

    def __post_init__(self) -> None:
        check_between("beta", self.beta)
        check_share("retain_ratio", self.retain_ratio)
        check_between("tau", self.tau, -1)
        check_whole("k", self.k, 1)
        check_positions(self.positions)

    def merge(self, video: VideoTokens) -> Assignment:
        assert video.vision_attention is not None
        features, received = video.features.flatten(2, 3), video.vision_attention.flatten(2)
        alike = (adjacent_similarity(features.transpose(1, 2)) > self.tau).mT.cpu()
        found = [self._one(*one) for one in zip(features, received, alike, strict=True)]
        into, new = (torch.stack(parts) for parts in zip(*found, strict=True))
        return Assignment(into, features=new)

    def _one(self, features: Tensor, received: Tensor, alike: Tensor) -> tuple[Tensor, Tensor]:
        """What each token of a video is merged into, and new features. alike: (pairs of frames,
        tokens)."""
        frames, size, _ = features.shape
        into = torch.arange(frames * size, device=features.device).view(frames, size)
        new = features.clone()
        parts = [(window, static_places(alike, window)) for window in most_static(alike)]
        saved = sum(int(static.sum()) * (len(window) - 1) for window, static in parts)
        share = min(1.0, self.retain_ratio * frames * size / (frames * size - saved))
        for window, static in parts:
            rows = slice(window.start, window.stop)
            at, other = (mask.nonzero()[:, 0].to(features.device) for mask in (static, ~static))
            if len(other):
                kept = highest(received[rows, other], ceil(round(len(other) * share, 9)))
                into[rows, other] = into[rows, other].where(kept, -1)
            if count := round(round(len(at) * share, 9)):
                means = features[rows, at].double().mean(0)[None]
                clusters = density_peaks(means, count, min(self.k, count))
                into[rows, at] = into[window.start, at[clusters.into[0]]]
                new[window.start, at] = mixed_with_members(means, clusters, self.beta)[0].to(new.dtype)
            elif len(at):
                into[rows, at] = -1
        return into.flatten(), new.flatten(0, 1)
