"""Density-peak clustering by k nearest neighbours (DPC-kNN), which several methods merge tokens with.

After Du et al., "Study on density peaks clustering based on k-nearest neighbors", as published video
methods use it. Distances are Euclidean over the root of the dimension. All is computed in float64, so
that choices do not depend on device or batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.scores import top
from dycoke_lab.methods.temporal_merging import average_into


class Clusters(NamedTuple):
    """centres: which tokens are. into: the number of each token's centre, its own if it is one."""

    centres: Bool[Tensor, "groups tokens"]
    into: Int[Tensor, "groups tokens"]


def highest(scores: Float[Tensor, "*rows tokens"], count: int) -> Bool[Tensor, "*rows tokens"]:
    """Return the `count` tokens with the highest scores of each row; of equal ones the earlier wins.

    >>> highest(torch.tensor([0.2, 0.5, 0.5]), count=1)
    tensor([False,  True, False])
    """
    everything = torch.ones_like(scores, dtype=torch.bool)
    return top(scores, everything, torch.full_like(everything[..., 0], count, dtype=torch.long))


def density_peaks(
    features: Float[Tensor, "groups tokens dim"],
    clusters: int,
    neighbours: int,
) -> Clusters:
    """Cluster the tokens of each group: the `clusters` with the highest scores are centres, and each
    other token joins the nearest centre. Of equal ones the earlier token wins.

    clusters, neighbours: at least 1; more than there are tokens mean all of them.

    >>> line = torch.tensor([[[0.0], [1.0], [2.0], [8.0], [9.0], [10.0]]])
    >>> density_peaks(line, clusters=2, neighbours=3).into.tolist()
    [[1, 1, 1, 4, 4, 4]]
    """
    far, score = _distances_and_scores(features, neighbours)
    centres = highest(score, clusters)
    own = torch.arange(score.shape[1], device=score.device).expand_as(score)
    nearest = far.masked_fill(~centres[:, None], torch.inf).argmin(-1)  # the first of equally near ones
    return Clusters(centres, torch.where(centres, own, nearest))


def peak_scores(
    features: Float[Tensor, "groups tokens dim"], neighbours: int
) -> Float[Tensor, "groups tokens"]:
    """Return the logarithm of each token's score: density times distance to the nearest denser token.

    Density is exp(-mean squared distance to the `neighbours` nearest tokens, the token itself being the
    first). Of equal densities the earlier token's counts as higher. The densest token's distance is the
    largest of its group. The logarithm has the same order, and does not underflow.

    >>> peak_scores(torch.tensor([[[0.0], [1.0], [4.0]]]), neighbours=2).exp()  # 4/e^.5, 1/e^.5, 3/e^4.5
    tensor([[2.4261, 0.6065, 0.0333]], dtype=torch.float64)
    """
    return _distances_and_scores(features, neighbours)[1]


def merged_into_peaks(
    tokens: Float[Tensor, "frames tokens dim"], anchors: range, count: int, neighbours: int, beta: float
) -> tuple[Int[Tensor, " peaks"], Float[Tensor, "peaks dim"], Int[Tensor, " all"]]:
    """Return the `count` density peaks of each anchor frame, their new features, and for every token the
    most similar peak of all, itself if it is one. Tokens are numbered frame by frame (FastVID, arXiv
    2503.11187).

    In each anchor frame every token of all frames belongs to the most similar peak by cosine. A peak
    becomes w * itself + (1 - w) * the mean of the m tokens that belong to it, itself among them, with
    w = max(1 / (m + 1), beta). Of equal ones the earlier wins.

    >>> tokens = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])
    >>> merged_into_peaks(tokens, range(1, 2), count=1, neighbours=1, beta=0.5)[1]  # 3 / 2 + 2 / 2
    tensor([[2.5000, 0.0000]])
    """
    score = peak_scores(tokens[anchors.start :: anchors.step], neighbours)
    places = score.argsort(dim=-1, descending=True, stable=True)[:, :count].sort(-1).values
    places = places + tokens.shape[1] * torch.tensor(anchors, device=places.device)[:, None]
    flat = tokens.flatten(0, 1)
    unit = F.normalize(flat.double(), dim=-1)
    # (anchor frames, peaks, all tokens); rounded, since rounding errors would decide between equal ones
    close = (unit[places] @ unit.T).round(decimals=9)
    close.scatter_(2, places[..., None], torch.inf)  # a peak belongs to itself, though others be equal
    best, which = close.max(1)  # the first of equally similar ones
    belongs = F.one_hot(which, count).mT.double()
    members = belongs.sum(-1, keepdim=True)
    weight = (1 / (members + 1)).clamp(min=beta)
    means = weight * flat[places] + (1 - weight) * (belongs @ flat.double()) / members
    nearest = best.argmax(0)  # the anchor frame that has the most similar peak
    ends = places[nearest, which.gather(0, nearest[None])[0]]
    return places.flatten(), means.flatten(0, 1).to(tokens.dtype), ends


def mixed_with_members(
    features: Float[Tensor, "groups tokens dim"], clusters: Clusters, beta: float
) -> Float[Tensor, "groups tokens dim"]:
    """Return features in which a centre is beta * itself + (1 - beta) * the mean of the others in its
    cluster; a centre that is alone stays as it is.

    >>> clusters = Clusters(torch.tensor([[True, False, False]]), torch.tensor([[0, 0, 0]]))
    >>> mixed_with_members(torch.tensor([[[1.0], [2.0], [4.0]]]), clusters, beta=0.6)[0, 0]
    tensor([1.8000])
    """
    others = average_into(features, clusters.into.masked_fill(clusters.centres, -1))
    ones = torch.ones_like(clusters.into)
    members = torch.zeros_like(ones).scatter_add(1, clusters.into, ones)
    return torch.where(members[..., None] > 1, beta * features + (1 - beta) * others, features)


def _distances_and_scores(features: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """(groups, tokens, tokens) and (groups, tokens)."""
    tokens, dim = features.double(), features.shape[2]
    # not by a matrix product, so that equal tokens' distance is exactly 0
    far = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / dim**0.5
    nearest = far.sort(-1).values[..., :neighbours]
    density = -nearest.square().mean(-1)  # its logarithm
    above, below = density[:, None], density[:, :, None]
    order = torch.arange(density.shape[1], device=density.device)
    denser = (above > below) | ((above == below) & (order < order[:, None]))
    apart = torch.where(denser, far, torch.inf).amin(-1)
    apart = torch.where(denser.any(-1), apart, far.amax((1, 2))[:, None])
    return far, apart.log() + density
