"""Measures of attention drift: how far the attention of a step is from where it was.

Attention is (steps, visual), one layer of one sample, as `Trace.stack` gives it. All results are NumPy.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from dycoke_lab.methods.scores import retained_budget, top

Array = NDArray[np.float64]


def step_cosine(attention: Float[Tensor, "steps visual"]) -> Array:
    """Return the cosine between each step and the one before; NaN for step 0. What DyCoke compares with
    reselect_below.

    >>> step_cosine(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).tolist()
    [nan, 1.0, 0.0]
    """
    close = F.cosine_similarity(attention[1:].double(), attention[:-1].double(), dim=1)
    return np.concatenate([[np.nan], close.cpu().numpy()])


def top_tokens(attention: Float[Tensor, "steps visual"], share: float) -> Bool[Tensor, "steps visual"]:
    """Return each step's most attended tokens: `share` of all, to the nearest."""
    everything = torch.ones_like(attention, dtype=torch.bool)
    return top(attention, everything, retained_budget(everything, 1 - _share(share)))


def overlap(attention: Float[Tensor, "steps visual"], share: float) -> tuple[Array, Array]:
    """Return recall and Jaccard index of each step's top tokens in those of step 0.

    >>> recall, jaccard = overlap(torch.tensor([[4.0, 3, 2, 1], [4.0, 1, 2, 3]]), share=0.5)
    >>> recall.tolist()
    [1.0, 0.5]
    """
    chosen = top_tokens(attention, share)
    both = (chosen & chosen[0]).sum(1).double()
    return (both / chosen.sum(1)).cpu().numpy(), (both / (chosen | chosen[0]).sum(1)).cpu().numpy()


def rank_correlation(attention: Float[Tensor, "steps visual"]) -> Array:
    """Return Spearman's rank correlation of each step with step 0."""
    rows = attention.double().cpu().numpy()
    return np.array([1.0] + [spearmanr(rows[0], row).statistic for row in rows[1:]])


def foresight(attention: Float[Tensor, "steps visual"], share: float) -> tuple[Array, Array]:
    """Return how well step 0's scores tell each step's top tokens: ROC-AUC and average precision
    (scikit-learn).

    One-shot pruning bets on this: 0.5 is a coin for ROC-AUC, `share` for average precision.
    """
    chosen, first = top_tokens(attention, share).cpu().numpy(), attention[0].double().cpu().numpy()
    auc = [roc_auc_score(row, first) for row in chosen]
    return np.array(auc), np.array([average_precision_score(row, first) for row in chosen])


def entropy(attention: Float[Tensor, "steps visual"]) -> Array:
    """Return the entropy, in bits, of each step's attention within the video: log2(visual) is even, 0 is one
    token."""
    within = attention.double() / attention.double().sum(1, keepdim=True)
    return torch.special.entr(within).sum(1).div(np.log(2)).cpu().numpy()


def mass_on(attention: Float[Tensor, "steps visual"], tokens: Bool[Tensor, "steps visual"]) -> Array:
    """Return the share of each step's attention within the video that falls on the given tokens."""
    values = attention.double()
    return ((values * tokens).sum(1) / values.sum(1)).cpu().numpy()


def replaced(kept: Bool[Tensor, "steps visual"]) -> Array:
    """Return, for each step after the first, the share of the tokens it attends to that the step before did
    not."""
    return ((kept[1:] & ~kept[:-1]).sum(1).double() / kept[1:].sum(1)).cpu().numpy()


def drift_table(attention: Float[Tensor, "steps visual"], share: float = 0.1) -> pd.DataFrame:
    """Return all measures, one row a step."""
    recall, jaccard = overlap(attention, share)
    auc, precision = foresight(attention, share)
    return pd.DataFrame({
        "step": range(len(attention)), "cosine_to_previous": step_cosine(attention),
        "recall": recall, "jaccard": jaccard,
        "rank_correlation": rank_correlation(attention), "roc_auc": auc, "average_precision": precision,
        "entropy_bits": entropy(attention), "video_share": attention.double().sum(1).cpu().numpy(),
    })  # fmt: skip


def _share(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie between 0 and 1: the part of the tokens called top")
    return share
