"""What published methods on the KV cache share here.

All of them choose among visual tokens only: the prompt's text and the answer always stay. Tokens that
are kept keep their positions. Where a paper counts the tokens of a cache, `prune_ratio` is a share of
the visual tokens, rounded to the nearest, halves up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.base import Selector


@dataclass(frozen=True)
class SlidingCache(Selector):
    """Base of methods whose cache keeps its size.

    answer_counts: each token of the answer takes the place of a visual token, down to one, as a paper's
        cache of a fixed size; False: the budget is of visual tokens alone, and the choice after the
        prompt is final.
    """

    from_layer: int = 0
    answer_counts: bool | Any = True

    knob: ClassVar[str] = "prune_ratio"
    every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.answer_counts) is not bool:
            raise ValueError(f"answer_counts={self.answer_counts!r} must be True or False")


def newest(
    candidates: Bool[Tensor, "*rows visual"], count: Int[Tensor, "*rows"]
) -> Bool[Tensor, "*rows visual"]:
    """Return the last `count` candidates.

    >>> newest(torch.tensor([True, True, False, True]), torch.tensor(2))
    tensor([False,  True, False,  True])
    """
    total = candidates.sum(-1, keepdim=True)
    return candidates & (candidates.cumsum(-1) > total - count[..., None])


def pooled(
    scores: Float[Tensor, "*rows visual"], candidates: Bool[Tensor, "*rows visual"], kernel: int
) -> Float[Tensor, "*rows visual"]:
    """Return the mean of each candidate and its neighbours among them, `kernel` tokens in all; where
    there are fewer, at the ends, the missing ones count as 0. In float64: neighbours share a large score,
    and differ by small ones, which would be lost beside it.

    >>> pooled(torch.tensor([3.0, 0.0, 9.0, 6.0]), torch.tensor([True, True, False, True]), kernel=3)
    tensor([1., 3., 0., 2.], dtype=torch.float64)
    """
    place = (candidates.cumsum(-1) - 1).clamp(min=0)
    scores = scores.double() * candidates
    close = torch.zeros_like(scores).scatter_add(-1, place, scores)
    mean = F.avg_pool1d(close.view(-1, 1, close.shape[-1]), kernel, 1, kernel // 2)
    return mean.view_as(scores).gather(-1, place) * candidates


def ends_of_pages(
    keys: Float[Tensor, "batch heads visual dim"],
    candidates: Bool[Tensor, "batch visual"],
    page: Int[Tensor, "batch visual"],
    pages: int,
) -> tuple[Float[Tensor, "batch heads pages dim"], Float[Tensor, "batch heads pages dim"]]:
    """Return the smallest and the largest key of each page's candidates, per channel; 0 for a page
    without tokens. page: the number of each token's page.

    >>> keys, page = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]]), torch.tensor([[0, 0]])
    >>> [end.flatten().tolist() for end in ends_of_pages(keys, page == 0, page, pages=1)]
    [[1.0, 0.0], [3.0, 2.0]]
    """
    where = page[:, None, :, None].expand_as(keys)
    low, high = (keys.masked_fill(~candidates[:, None, :, None], end) for end in (torch.inf, -torch.inf))
    empty = keys.new_zeros(*keys.shape[:2], pages, keys.shape[3])
    least = empty.scatter_reduce(2, where, low, "amin", include_self=False)
    return least, empty.scatter_reduce(2, where, high, "amax", include_self=False)
