"""Areas of frames that are alike, by halving rows and columns; and what is linked, directly or not."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.scores import unit_vectors


def merged_areas(
    tokens: Float[Tensor, "tokens dim"],
    cell: Int[Tensor, " tokens"],
    grid: Sequence[int],
    tau_s: float,
    tau_t: float,
    root_level: int,
) -> tuple[Int[Tensor, " tokens"], Float[Tensor, "tokens dim"]]:
    """Return for a video's tokens the one that each is merged into, and the features of those that stay:
    the unweighted mean of the areas that are one.

    cell: the place of each in the grid of frames, rows and columns, ascending. tau_s: as `least` of
    `quadtree`. tau_t: areas of consecutive frames that lie in each other are one if their cosine is at
    least this.
    """
    size = prod(grid)
    dense = tokens.new_zeros(size, tokens.shape[1]).index_copy(0, cell, tokens)
    there = torch.zeros(size, dtype=torch.bool, device=cell.device).index_fill(0, cell, True)
    node, mean = quadtree(dense.view(*grid, -1), there.view(*grid), tau_s, root_level)
    unit = unit_vectors(mean)
    close = (unit[1:] * unit[:-1]).sum(-1).round(decimals=6)
    alike = (close >= tau_t) & (node[1:] >= 0) & (node[:-1] >= 0)  # areas that share a place are nested
    end = linked(size, node[:-1][alike], node[1:][alike])
    first = cell[node.flatten()[cell] == cell]  # one token of each area
    sums = torch.zeros_like(dense).index_add(0, end[first], mean.flatten(0, 2)[first])
    count = torch.bincount(end[first], minlength=size).clamp(min=1)
    number = torch.zeros_like(end).index_copy(0, cell, torch.arange(len(cell), device=cell.device))
    return number[end[node.flatten()[cell]]], (sums / count[:, None].to(sums.dtype))[cell]


def quadtree(
    features: Float[Tensor, "frames rows cols dim"],
    there: Bool[Tensor, "frames rows cols"],
    least: float,
    root_level: int,
) -> tuple[Int[Tensor, "frames rows cols"], Float[Tensor, "frames rows cols dim"]]:
    """Return for each place the first token of the area that it lies in, numbered (frame * rows + row) *
    cols + col, or -1 if no token is there; and that area's features.

    Each level halves the rows and columns of the one below, until there are 2 of either (level 0); of an
    odd number the first stays single. An area's features are the mean of its quarters that have tokens.
    From `root_level` down, an area stays one if each quarter's cosine with it is at least `least`, else
    its quarters are asked.
    """
    levels = [(features * there[..., None], there)]
    while min(levels[-1][1].shape[1:]) > 2:
        quarters = _quarters(levels[-1][0])
        count = _quarters(levels[-1][1][..., None]).sum(-2)
        levels.append((quarters.sum(-2) / count.clamp(min=1).to(quarters.dtype), count[..., 0] > 0))
    start = max(0, len(levels) - 1 - root_level)
    asked, none = levels[start][1], there.numel()
    first = torch.arange(none, device=there.device).view(there.shape).masked_fill(~there, none)
    node, found = torch.full_like(first, -1), torch.zeros_like(features)
    for level in range(start, -1, -1):
        mean, stays = levels[level][0], asked
        if level:
            quarters, exist = levels[level - 1]
            close = (unit_vectors(quarters) * unit_vectors(_spread(mean, exist))).sum(-1).round(decimals=6)
            stays = asked & ~_quarters((exist & (close < least))[..., None]).any(-2)[..., 0]
            asked = _spread((asked & ~stays)[..., None], exist)[..., 0] & exist
        number = first[..., None]
        for _ in range(level):
            number = _quarters(number, fill=none).amin(-2)
        number = number.masked_fill(~stays[..., None], -1)
        for below in range(level - 1, -1, -1):
            number, mean = (_spread(part, levels[below][1]) for part in (number, mean))
        here = number >= 0
        node, found = torch.where(here[..., 0], number[..., 0], node), torch.where(here, mean, found)
    return node, found


def _quarters(values: Tensor, fill: float = 0) -> Tensor:
    """(frames, rows, cols, dim) as (frames, halved rows, halved cols, 4, dim)."""
    rows, cols = values.shape[1:3]
    padded = F.pad(values, (0, 0, cols % 2, 0, rows % 2, 0), value=fill)
    return padded.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3, 4)


def _spread(values: Tensor, below: Tensor) -> Tensor:
    """Each area's value at the places of its quarters, of which there are as many as `below` has."""
    rows, cols = below.shape[1:3]
    wide = values.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return wide[:, wide.shape[1] - rows :, wide.shape[2] - cols :]


def linked(count: int, one: Int[Tensor, " links"], other: Int[Tensor, " links"]) -> Int[Tensor, " count"]:
    """Return for each of so many things the first one that it is linked with, directly or not.

    >>> linked(5, torch.tensor([4, 1]), torch.tensor([1, 3])).tolist()
    [0, 1, 2, 1, 1]
    """
    first = torch.arange(count, device=one.device)
    while True:
        ends = torch.cat([first[one], first[other]])
        lower = torch.minimum(first[one], first[other]).repeat(2)
        now = first.scatter_reduce(0, ends, lower, "amin")
        now = now[now]
        if torch.equal(now, first):
            return first
        first = now
