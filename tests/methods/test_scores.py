"""Scores and budgets as pure functions, against loops."""

from __future__ import annotations

import pytest
import torch
from helpers.oracles import best, choose, cosine, share_of

from dycoke_lab.methods.scores import (
    has_moved,
    last_query_attention,
    retained_budget,
    top,
    visible,
    window_attention,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_budget_is_rounded_to_the_nearest(dtype):
    """Whatever torch's default dtype; and of none, none."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for total in (0, 1, 7, 90, 6272):
            for hundredths in range(100):
                expected = choose([0.0] * total, list(range(total)), 1 - hundredths / 100)
                there = torch.ones(1, total, dtype=torch.bool)
                assert retained_budget(there, hundredths / 100).tolist() == [len(expected)], (
                    total,
                    hundredths,
                )
    finally:
        torch.set_default_dtype(before)


def test_top_equals_a_sort_and_of_equal_scores_the_earlier_wins():
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (5, 3, 12), generator=random).double()
    candidates = torch.rand(5, 3, 12, generator=random) > 0.3
    budget = retained_budget(candidates, 0.6)
    found = top(scores, candidates, budget)
    for b in range(5):
        for head in range(3):
            there = candidates[b, head].nonzero()[:, 0].tolist()
            assert int(budget[b, head]) == share_of(len(there), 0.4)
            expected = best(scores[b, head].tolist(), there, int(budget[b, head]))
            assert set(found[b, head].nonzero()[:, 0].tolist()) == expected


def test_top_never_chooses_what_is_no_candidate():
    """Also if the budget is larger, as in a batch element without a video."""
    candidates = torch.tensor([[False, False, False], [True, False, True]])
    assert torch.equal(top(torch.rand(2, 3), candidates, torch.tensor([1, 3])), candidates)


def test_attention_has_moved_if_its_cosine_is_below():
    random = torch.Generator().manual_seed(1)
    one, two = (torch.rand(40, 6, generator=random, dtype=torch.float64) ** 3 for _ in range(2))
    expected = [cosine(a, b) < 0.5 for a, b in zip(one.tolist(), two.tolist(), strict=True)]
    assert has_moved(one, two, 0.5).tolist() == expected and len(set(expected)) == 2


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "flat"])
def test_attention_of_the_last_queries_equals_the_whole_square(kind):
    query, key = torch.randn(2, 4, 9, 8).double(), torch.randn(2, 2, 9, 8).double()
    allowed = torch.ones(9, 9, dtype=torch.bool).tril().repeat(2, 1, 1)
    mask = None
    if kind != "none":
        allowed[1, :, :3] = False
        mask = {
            "boolean": allowed[:, None],
            "additive": torch.zeros(2, 1, 9, 9).masked_fill(
                ~allowed[:, None], torch.finfo(torch.float32).min
            ),
            "flat": allowed[:, -1],
        }[kind]
        assert torch.equal(visible(mask, 9).reshape(2, 9), allowed[:, -1])
    logits = query @ key.repeat_interleave(2, 1).mT * 0.3
    whole = logits.masked_fill(~allowed[:, None], -torch.inf).softmax(-1).nan_to_num(0).float()
    torch.testing.assert_close(last_query_attention(query, key, mask, 0.3), whole[:, :, -1])
    torch.testing.assert_close(window_attention(query, key, mask, 0.3, 4), whole[:, :, -4:])
    assert window_attention(query, key, mask, 0.3, 20).shape[2] == 9


def test_a_mask_by_head_hides_other_keys_in_each_head():
    query, key = torch.randn(2, 4, 3, 8).double(), torch.randn(2, 2, 9, 8).double()
    allowed = torch.rand(2, 4, 1, 9) > 0.5
    allowed[..., -1] = True
    logits = query @ key.repeat_interleave(2, 1).mT * 0.3
    mask = allowed.expand(-1, -1, 3, -1)
    whole = logits.masked_fill(~allowed, -torch.inf).softmax(-1).float()
    torch.testing.assert_close(last_query_attention(query, key, mask, 0.3), whole[:, :, -1])
    torch.testing.assert_close(window_attention(query, key, mask, 0.3, 1), whole[:, :, -1:])


def test_a_window_of_queries_sees_what_its_mask_allows():
    """Also what comes later, where an image's tokens see each other; a query that is padding sees nothing."""
    query, key = torch.randn(1, 2, 6, 8).double(), torch.randn(1, 1, 6, 8).double()
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    mask[2:5, 2:5] = True
    mask[:, 0] = False
    mask[0, 3] = True  # of padding, whose row says anything
    whole = (query @ key.mT * 0.3).masked_fill(~mask, -torch.inf).softmax(-1).float()
    whole[:, :, 0] = 0
    for window in (1, 3, 6):
        found = window_attention(query, key, mask[None, None], 0.3, window)
        torch.testing.assert_close(found, whole[:, :, -window:])
