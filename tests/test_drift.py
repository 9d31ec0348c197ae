"""Drift measures against loops, and the interval against a case whose answer is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import choose, cosine

from dycoke_lab import drift, prune

STEPS, TOKENS = 5, 40


@pytest.fixture
def attention():
    return torch.rand(STEPS, TOKENS, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 4


def test_every_measure_equals_a_loop(attention):
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_how_many_are_kept_is_rounded_to_the_nearest(dtype):
    """Whatever torch's default dtype; and of none, none."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for total in (0, 1, 7, 90, 6272):
            for hundredths in range(100):
                expected = choose([0.0] * total, list(range(total)), 1 - hundredths / 100)
                there = torch.ones(1, total, dtype=torch.bool)
                assert prune.keep_counts(there, hundredths / 100).tolist() == [len(expected)], (total, hundredths)
    finally:
        torch.set_default_dtype(before)


def test_mass_on_the_truth(attention):
    tokens = torch.zeros(STEPS, TOKENS, dtype=torch.bool)
    tokens[:, 3:9] = True
    expected = [sum(row[3:9]) / sum(row) for row in attention.tolist()]
    np.testing.assert_allclose(drift.mass_on(attention, tokens), expected)


def test_what_a_step_replaced():
    kept = [{0, 1, 2, 3}, {0, 1, 2, 3}, {2, 3, 4, 5}, {6}]
    table = torch.tensor([[token in tokens for token in range(8)] for tokens in kept])
    np.testing.assert_allclose(drift.replaced(table), [len(b - a) / len(b) for a, b in pairwise(kept)])


def test_the_interval_covers_the_mean_of_known_draws():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        low, high = drift.bootstrap(generator.normal(0.5, 0.1, (1, 200)), draws=400, seed=trial)[1:]
        covered += low <= 0.5 <= high
        assert 0.015 < high - low < 0.045  # 2 * 1.96 * 0.1 / sqrt(200) = 0.028
    assert covered >= 50  # 95 % of 60 is 57; below 50 has odds under 1 in 1,000


def test_the_interval_knows_that_seeds_differ():
    values = np.repeat([[0.2], [0.5], [0.8]], 100, axis=1)
    mean, low, high = drift.bootstrap(values)
    assert mean == pytest.approx(0.5) and low < 0.3 and high > 0.7


def test_a_ratio_of_sums():
    values = np.array([[[1, 2], [3, 3]]], float)
    assert drift.bootstrap(values)[0] == pytest.approx(4 / 5)


@pytest.mark.parametrize("share", [0, 1, -1])
def test_bad_share_is_named(attention, share):
    with pytest.raises(ValueError, match="share="):
        drift.overlap(attention, share)
