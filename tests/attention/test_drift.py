"""Measures of attention drift against loops."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.oracles import choose, cosine

from dycoke_lab.attention import drift

STEPS, TOKENS = 5, 40


@pytest.fixture
def attention():
    return torch.rand(STEPS, TOKENS, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 4


def test_every_measure_of_drift_equals_a_loop(attention):
    rows = attention.tolist()
    tops = [choose(row, list(range(TOKENS)), 0.2) for row in rows]
    table = drift.drift_table(attention, 0.2)
    for t in range(STEPS):
        got = table.loc[t]
        if t:
            assert got.cosine_to_previous == pytest.approx(cosine(rows[t], rows[t - 1]))
        assert got.recall == pytest.approx(len(tops[t] & tops[0]) / len(tops[t]))
        assert got.jaccard == pytest.approx(len(tops[t] & tops[0]) / len(tops[t] | tops[0]))
        rank = [[sorted(row).index(x) for x in row] for row in (rows[0], rows[t])]
        assert got.rank_correlation == pytest.approx(np.corrcoef(rank)[0, 1])
        pairs = [(a, b) for a in tops[t] for b in range(TOKENS) if b not in tops[t]]
        assert got.roc_auc == pytest.approx(sum(rows[0][a] > rows[0][b] for a, b in pairs) / len(pairs))
        order = sorted(range(TOKENS), key=lambda v: -rows[0][v])
        hits = [rank for rank, v in enumerate(order, 1) if v in tops[t]]
        assert got.average_precision == pytest.approx(np.mean([n / rank for n, rank in enumerate(hits, 1)]))
        share = [x / sum(rows[t]) for x in rows[t]]
        assert got.entropy_bits == pytest.approx(-sum(x * math.log2(x) for x in share))
    assert math.isnan(table.cosine_to_previous[0])


def test_mass_on_the_true_tokens_equals_a_loop(attention):
    tokens = torch.zeros(STEPS, TOKENS, dtype=torch.bool)
    tokens[:, 3:9] = True
    expected = [sum(row[3:9]) / sum(row) for row in attention.tolist()]
    np.testing.assert_allclose(drift.mass_on(attention, tokens), expected)


def test_the_share_that_a_step_replaced():
    kept = [{0, 1, 2, 3}, {0, 1, 2, 3}, {2, 3, 4, 5}, {6}]
    table = torch.tensor([[token in tokens for token in range(8)] for tokens in kept])
    np.testing.assert_allclose(drift.replaced(table), [len(b - a) / len(b) for a, b in pairwise(kept)])


@pytest.mark.parametrize("share", [0, 1, -1])
def test_a_bad_share_is_named(attention, share):
    with pytest.raises(ValueError, match="share="):
        drift.overlap(attention, share)
