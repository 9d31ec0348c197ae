"""What several mergers share: the share of tokens that survives, as a parameter and as a whole number;
similarities that tie where tokens are equal; evenly spread choices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.base import Merger
from dycoke_lab.methods.parameter_checks import check_positions, check_share
from dycoke_lab.methods.temporal_merging import retained_count


def share_of(total: int, share: float) -> int:
    """Return a share of so many tokens (or frames) to the nearest whole one, halves up; at least 1, at
    most all.

    >>> share_of(16, 0.1), share_of(14, 0.25), share_of(3, 0.01)
    (2, 4, 1)
    """
    return min(total, max(1, retained_count(total, 1 - share)))


def precise(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return float32 of half precision, so that a method chooses alike whatever the model's precision
    is."""
    return values if values.dtype == torch.float64 else values.float()


def settled(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return values to six decimals: what is equal but for rounding ties, and the earlier token wins.

    >>> settled(torch.tensor([0.9999999, 1.0])).tolist()
    [1.0, 1.0]
    """
    return (values * 1e6).round() / 1e6


def cosines(
    one: Float[Tensor, "*rows a dim"], two: Float[Tensor, "*rows b dim"]
) -> Float[Tensor, "*rows a b"]:
    """Return the cosine of each pair of tokens, to six decimals; 0 with a token of length 0.

    >>> cosines(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [0.0, 1.0]]))
    tensor([[1.0000, 0.8000]])
    """
    one, two = precise(one), precise(two)
    lengths = one.norm(dim=-1)[..., :, None] * two.norm(dim=-1)[..., None, :]
    return settled(one @ two.transpose(-1, -2) / lengths.clamp(min=1e-8))


def spread(
    candidates: Bool[Tensor, "*rows tokens"], budget: Int[Tensor, "*rows"]
) -> Bool[Tensor, "*rows tokens"]:
    """Return `budget` of the candidates, evenly spread in their order, the first of them one: the first
    of each of so many equal stretches.

    >>> spread(torch.ones(6, dtype=torch.bool), torch.tensor(3)).tolist()
    [True, False, True, False, True, False]
    """
    rank, total = candidates.cumsum(-1) - 1, candidates.sum(-1, keepdim=True).clamp(min=1)
    # bucket b of `budget` equal ones begins where floor(rank * budget / total) first reaches b
    bucket = rank * budget[..., None] // total
    previous = torch.where(rank > 0, (rank - 1) * budget[..., None] // total, -1)
    return candidates & (bucket != previous) & (budget[..., None] > 0)


def middles(total: int, count: int) -> list[int]:
    """Return the middle of each of `count` equal stretches of 0 ... total - 1.

    >>> middles(8, 2), middles(8, 1)
    ([2, 6], [4])
    """
    return [(2 * stretch + 1) * total // (2 * count) for stretch in range(count)]


def over_video(into: Int[Tensor, "videos frames tokens"]) -> Int[Tensor, "videos all"]:
    """Return destinations within each frame (-1: dropped) as numbers within the video.

    >>> over_video(torch.tensor([[[0, 0], [-1, 1]]])).tolist()
    [[0, 0, -1, 3]]
    """
    frames, tokens = into.shape[1:]
    start = torch.arange(frames, device=into.device)[:, None] * tokens
    return torch.where(into >= 0, into + start, -1).flatten(1)


@dataclass(frozen=True)
class ShareMerger(Merger):
    """A merger that has the share of tokens that survive as a parameter, which `knob` names.

    positions: "original" keeps the position ids of retained tokens; "repacked" numbers them anew.
    """

    positions: Literal["original", "repacked"] | Any = field(default="original", kw_only=True)

    knob: ClassVar[str] = "share"
    knob_range: ClassVar[tuple[float, float]] = (0.005, 1.0)
    shares: ClassVar[tuple[str, ...]] = ()  # other parameters that are shares

    def __post_init__(self) -> None:
        for name in (self.knob, *self.shares):
            check_share(name, getattr(self, name))
        check_positions(self.positions)

    @property
    def off(self) -> bool:
        return bool(getattr(self, self.knob) == 1)
