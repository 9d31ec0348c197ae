"""Solutions of notebook 09's exercises."""

from math import comb

import numpy as np


def paired_interval(one, other):
    """Draw videos, each with its difference, and take the quantiles of the means."""
    difference = np.array(one, float) - np.array(other, float)
    picks = np.random.default_rng(0).integers(len(difference), size=(4000, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    return low, high


def words_kept(full, compressed):
    """By place; `zip` ends with the shorter answer, so what is missing does not count as kept."""
    words, others = full.split(), compressed.split()
    same = sum(word == other for word, other in zip(words, others, strict=False))
    return 100 * same / len(words)


def mcnemar_p(one, other):
    """Only videos on which the methods differ say something; each is the throw of a coin."""
    ahead = sum(a > b for a, b in zip(one, other, strict=True))
    behind = sum(a < b for a, b in zip(one, other, strict=True))
    throws = ahead + behind
    tail = sum(comb(throws, heads) for heads in range(max(ahead, behind), throws + 1)) / 2**throws
    return min(1.0, 2 * tail)
