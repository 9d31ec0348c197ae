"""Density-peak clustering by k nearest neighbours (DPC-kNN), which several methods merge tokens with.

After Du et al., "Study on density peaks clustering based on k-nearest neighbors", as published video methods
use it. Distances are Euclidean over the root of the dimension. All is computed in float64, so that choices do
not depend on device or batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.methods.scores import top


class Clusters(NamedTuple):
    """centres: which tokens are centres. into: the number of each token's centre, its own if it is one."""

    centres: Bool[Tensor, "groups tokens"]
    into: Int[Tensor, "groups tokens"]


def density_peaks(features: Float[Tensor, "groups tokens dim"], clusters: int, neighbours: int) -> Clusters:
    """Cluster the tokens of each group: the `clusters` with the highest scores are centres, and each other
    token joins the nearest centre. Of equal ones the earlier token wins.

    clusters, neighbours: at least 1; more than there are tokens mean all of them.

    >>> line = torch.tensor([[[0.0], [1.0], [2.0], [8.0], [9.0], [10.0]]])
    >>> density_peaks(line, clusters=2, neighbours=3).into.tolist()
    [[1, 1, 1, 4, 4, 4]]
    """
    far, score = _distances_and_scores(features, neighbours)
    everything = torch.ones_like(score, dtype=torch.bool)
    centres = top(score, everything, torch.full_like(score[:, 0], clusters, dtype=torch.long))
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


def _distances_and_scores(features: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """(groups, tokens, tokens) and (groups, tokens)."""
    dim = features.shape[2]
    # not by a matrix product, so that equal tokens' distance is exactly 0
    far = torch.cdist(features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist") / (
        dim**0.5
    )
    nearest = far.sort(-1).values[..., :neighbours]
    density = -nearest.square().mean(-1)  # its logarithm
    above, below = density[:, None], density[:, :, None]
    order = torch.arange(density.shape[1], device=density.device)
    denser = (above > below) | ((above == below) & (order < order[:, None]))
    apart = torch.where(denser, far, torch.inf).amin(-1)
    apart = torch.where(denser.any(-1), apart, far.amax((1, 2))[:, None])
    return far, apart.log() + density
