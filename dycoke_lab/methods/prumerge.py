"""PruMerge+ (arXiv 2403.15388): tokens with outlying attention and a stride of the others, each with
what is like it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.merger_parts import (
    ShareMerger,
    cosines,
    over_video,
    precise,
    share_of,
    spread,
)
from dycoke_lab.methods.parameter_checks import check_positions, check_share
from dycoke_lab.methods.scores import top


@dataclass(frozen=True)
class PruMergePlus(ShareMerger):
    """Keep in each frame the tokens that receive outlying attention, evenly spread others, and one sum
    of the rest; add to each kept token those whose keys are nearest.

    ratio: the share of a frame's tokens that survive, above 0 to 1, to the nearest, halves up, at least
        2: a quarter by attention, then a stride of the others, and the sum. None: the paper's choice:
        all tokens with attention above Q3 + 1.5 IQR (at least one), and of the others every s-th place
        of the frame, with s = int(int(1 / share of the outliers) / 3), at least 1; then the sum, if any
        is left.
    neighbours: the share of a frame's tokens that is added to a kept one, weighted by attention; the
        weights of a frame sum to 1, those of the neighbours do not (the paper's 32 of 576), halves up,
        at least 1.
    The sum of the rest, weighted so too, takes the place of the first token of the frame that is
    dropped.
    positions: "repacked", as in the code, which does this before the LLM; with M-RoPE (Qwen3-VL) that
    loses rows and columns, and "original" keeps them.

    Differs: no class token: attention received, of the last layer, softmax by head (the code: over the
    full width). The paper's image is a frame here, its tokens are those after the model's pooling. Keys
    of all heads side by side. `ratio` is ours. The strides reach the frame's last token. The video's
    order; the code's is by score.
    """

    ratio: float | None = None
    neighbours: float = 32 / 576
    positions: Literal["original", "repacked"] | Any = field(default="repacked", kw_only=True)

    label: ClassVar[str] = "PruMerge+ (attention received)"
    colour: ClassVar[str] = "#3182bd"
    paper: ClassVar[str] = "arXiv 2403.15388, 3"
    needs: ClassVar[frozenset[str]] = frozenset({"vision_attention:-1", "vision_keys:-1"})
    knob: ClassVar[str] = "ratio"

    def __post_init__(self) -> None:
        if self.ratio is not None:
            super().__post_init__()
        check_share("neighbours", self.neighbours)
        check_positions(self.positions)

    @property
    def off(self) -> bool:
        return False  # tokens that all stay get sums all the same

    def merge(self, video: VideoTokens) -> Assignment:
        assert video.vision_attention is not None and video.vision_keys is not None
        received, keys = video.vision_attention.flatten(2), video.vision_keys.flatten(2, 3)
        features, tokens = precise(video.features.flatten(2, 3)), received.shape[2]
        kept, numbers = self._kept(received), torch.arange(tokens, device=received.device)
        weights = (received / received.sum(-1, keepdim=True)).to(features.dtype)
        itself = torch.eye(tokens, dtype=torch.bool, device=kept.device)
        near = (
            cosines(keys, keys).masked_fill(itself, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        )
        near = near[..., : min(tokens - 1, share_of(tokens, self.neighbours))]
        among = (
            torch.zeros_like(itself, dtype=features.dtype)
            .expand(*near.shape[:3], tokens)
            .scatter(3, near, 1.0)
        )
        new = features + (among * weights[:, :, None]) @ features
        rest = weights.masked_fill(kept, 0)[..., None] * features
        first = (~kept).int().argmax(-1, keepdim=True)
        extra = ~kept & (numbers == first)
        new = torch.where(extra[..., None], rest.sum(2, keepdim=True), new)
        return Assignment(over_video(torch.where(kept, numbers, first)), features=new.flatten(1, 2))

    def _kept(self, received: Tensor) -> Tensor:
        """The tokens that are kept, without the sum of the rest."""
        tokens, everything = received.shape[2], torch.ones_like(received, dtype=torch.bool)
        if self.ratio is None:
            low, high = received.quantile(received.new_tensor([0.25, 0.75]), -1)
            outliers = (received > (high + 1.5 * (high - low))[..., None]).sum(-1).clamp(min=1)
            step = (tokens // outliers // 3).clamp(min=1)
            stride = torch.arange(tokens, device=received.device) % step[..., None] == 0
            return top(received, everything, outliers) | stride
        total = share_of(tokens, self.ratio)
        total = total if total == tokens else max(1, total - 1)
        count = torch.full_like(received[..., 0], share_of(total, 0.25), dtype=torch.long)
        best = top(received, everything, count)
        return best | spread(~best, total - count)
