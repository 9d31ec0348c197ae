"""Controls before the LLM, at the same number of tokens: fewer frames, smaller frames, and tokens that
are chosen without looking at them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import ceil
from numbers import Integral
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.merger_parts import ShareMerger, middles, precise, share_of, spread


@dataclass(frozen=True)
class _Control(ShareMerger):
    """share: the share of tokens kept, above 0 to 1."""

    share: float = 0.25

    paper: ClassVar[str] = "control"


@dataclass(frozen=True)
class FewerFrames(_Control):
    """Keep every token of evenly spaced frames: the middle one of each of so many equal stretches.

    share: the share of frames kept, above 0 to 1, to the nearest, halves up, at least one.
    """

    label: ClassVar[str] = "fewer frames"
    colour: ClassVar[str] = "#525252"

    def merge(self, video: VideoTokens) -> Assignment:
        videos, frames, rows, cols, _ = video.features.shape
        kept = torch.zeros(frames, rows * cols, dtype=torch.bool, device=video.features.device)
        kept[middles(frames, share_of(frames, self.share))] = True
        return Assignment.keep(kept.flatten().expand(videos, -1))


@dataclass(frozen=True)
class SmallerFrames(_Control):
    """Keep each frame, resampled bilinearly to a smaller grid (as LLaVA-OneVision pools a video's
    frames).

    share: the share of a frame's tokens wanted, above 0 to 1. Rows and columns shrink alike, by its
        root, each to a whole number above or below, so that their product is nearest to it; of equal
        ones the smallest grid, then that with fewer rows.
    The new tokens stand in the middles of equal stretches of rows and columns, with those positions.
    On Qwen3-VL, what deeper layers add to a token is that place's own, not resampled.
    """

    label: ClassVar[str] = "smaller frames"
    colour: ClassVar[str] = "#8c6d31"

    def merge(self, video: VideoTokens) -> Assignment:
        features = precise(video.features)
        videos, frames, rows, cols, dim = features.shape
        size = smaller_grid(rows, cols, self.share)
        small = F.interpolate(features.flatten(0, 1).permute(0, 3, 1, 2), size, mode="bilinear").movedim(
            1, -1
        )
        places = torch.arange(rows * cols, device=features.device).view(rows, cols)
        places = places[middles(rows, size[0])][:, middles(cols, size[1])].flatten()
        kept = torch.zeros(frames, rows * cols, dtype=torch.bool, device=features.device)
        kept[:, places] = True
        new = features.flatten(2, 3).index_copy(2, places, small.reshape(videos, frames, -1, dim))
        return Assignment.keep(kept.flatten().expand(videos, -1))._replace(features=new.flatten(1, 2))


def smaller_grid(rows: int, cols: int, share: float) -> tuple[int, int]:
    """Return the rows and columns of a grid with about this share of the tokens, shaped alike.

    >>> smaller_grid(14, 14, 0.25), smaller_grid(4, 4, 0.1), smaller_grid(4, 4, 0.5)
    ((7, 7), (1, 2), (3, 3))
    """
    sides = [side * share**0.5 for side in (rows, cols)]
    heights, widths = ({max(1, int(side + 1e-9)), max(1, ceil(side - 1e-9))} for side in sides)
    grids = [(abs(high * wide - share * rows * cols), high, wide) for high in heights for wide in widths]
    return min((round(off, 6), high * wide, high, wide) for off, high, wide in grids)[2:]


@dataclass(frozen=True)
class Subset(_Control):
    """Keep a share of a video's tokens, to the nearest, halves up, at least one, without looking at
    them."""

    def merge(self, video: VideoTokens) -> Assignment:
        videos, *grid, _ = video.features.shape
        tokens = grid[0] * grid[1] * grid[2]
        kept = self.chosen(tokens, share_of(tokens, self.share))
        return Assignment.keep(kept.to(video.features.device).expand(videos, -1))

    @abstractmethod
    def chosen(self, tokens: int, count: int) -> Bool[Tensor, " tokens"]:
        """Return which of a video's tokens to keep."""


@dataclass(frozen=True)
class RandomTokens(Subset):
    """Keep random tokens of the video.

    seed: of 64 bits; with the number of tokens it decides the choice, which all videos of one size
        share, so that it does not depend on the batch.
    """

    seed: int = 0

    label: ClassVar[str] = "random tokens"
    colour: ClassVar[str] = "#bdbdbd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.seed, Integral) or not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed!r} must be a whole number of 64 bits")

    def chosen(self, tokens: int, count: int) -> Tensor:
        order = torch.randperm(tokens, generator=torch.Generator().manual_seed(self.seed))
        return torch.zeros(tokens, dtype=torch.bool).scatter(0, order[:count], True)


@dataclass(frozen=True)
class EveryNth(Subset):
    """Keep every n-th token of the video, from the first on."""

    label: ClassVar[str] = "every n-th token"
    colour: ClassVar[str] = "#637939"

    def chosen(self, tokens: int, count: int) -> Tensor:
        return spread(torch.ones(tokens, dtype=torch.bool), torch.tensor(count))


@dataclass(frozen=True)
class FirstTokens(Subset):
    """Keep the first tokens of the video, frame by frame."""

    label: ClassVar[str] = "first tokens"
    colour: ClassVar[str] = "#bd9e39"

    def chosen(self, tokens: int, count: int) -> Tensor:
        return torch.arange(tokens) < count
