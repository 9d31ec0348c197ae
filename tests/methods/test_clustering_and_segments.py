"""Density-peak clustering and the cutting of videos into segments, against loops, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import published_segments as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from dycoke_lab.methods.clustering import density_peaks, peak_scores
from dycoke_lab.methods.segments import adjacent_similarity, contiguous, cut_where_unlike, most_static


def repeating(groups, tokens, dim, kinds, seed):
    """Tokens of so many kinds, so that some are equal."""
    random = torch.Generator().manual_seed(seed)
    pool = torch.randn(groups, kinds, dim, generator=random, dtype=torch.float64)
    which = torch.randint(0, kinds, (groups, tokens), generator=random)
    return pool.gather(1, which[..., None].expand(-1, -1, dim))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 14), st.integers(1, 5)),
    st.integers(1, 20),
    st.integers(1, 16),
    st.integers(1, 9),
    st.integers(0, 999),
)
def test_clusters_equal_the_loops(shape, kinds, count, neighbours, seed):
    features = repeating(*shape, kinds, seed)
    found = density_peaks(features, count, neighbours)
    expected = [slow.clusters(group, count, neighbours) for group in features.tolist()]
    assert found.into.tolist() == expected
    numbers = torch.arange(shape[1])
    assert torch.equal(found.centres, found.into == numbers)
    assert found.centres.sum(1).tolist() == [min(count, shape[1])] * shape[0]
    scores = torch.tensor([slow.peaks(group, neighbours) for group in features.tolist()])
    torch.testing.assert_close(peak_scores(features, neighbours).exp().float(), scores)
    for group in range(shape[0]):
        alone = density_peaks(features[group : group + 1], count, neighbours)
        assert torch.equal(alone.into[0], found.into[group])


def test_clusters_by_hand():
    """On a line: 0, 1, 4. Two nearest, of which the first is the token itself, at distance 0."""
    line = torch.tensor([[[0.0], [1.0], [4.0]]])
    # mean squares: 1/2, 1/2, 9/2. 0 is the densest (earlier than 1), its distance the largest, 4;
    # 1's is that to 0, 1; 4's that to 1, 3
    expected = [4 * math.exp(-0.5), 1 * math.exp(-0.5), 3 * math.exp(-4.5)]
    torch.testing.assert_close(peak_scores(line, 2)[0].exp(), torch.tensor(expected).double())
    assert density_peaks(line, 1, 2).into.tolist() == [[0, 0, 0]]
    assert density_peaks(line, 2, 2).into.tolist() == [[0, 1, 1]]  # 4 is nearer to 1


def test_distances_are_over_the_root_of_the_dimension():
    narrow = torch.randn(1, 9, 3).double()
    wide = narrow.repeat(1, 1, 4)
    torch.testing.assert_close(peak_scores(narrow, 4), peak_scores(wide, 4))


def test_equal_tokens_are_decided_by_the_earlier_one():
    found = density_peaks(torch.ones(1, 5, 3), 2, 3)
    assert found.into.tolist() == [[0, 1, 0, 0, 0]]


def test_large_distances_do_not_underflow():
    """Where exp(-mean square) would be 0 for all, and the earliest tokens would win."""
    features = torch.randn(2, 12, 4).double()
    a, b = density_peaks(100 * features, 3, 4).into, (100 * features).tolist()
    assert all(max(slow.peaks(group, 4)) == 0 for group in b)
    assert a.tolist() != [[0, 1, 2, *([0] * 9)]] * 2
    bfloat = density_peaks(features.bfloat16(), 3, 4)
    assert torch.equal(bfloat.into, density_peaks(features.bfloat16().float(), 3, 4).into)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 14), st.integers(-1, 6))
def test_cuts_where_frames_are_unlike_equal_the_loops(similarity, c, tau):
    given = [x / 5 for x in similarity], c, tau / 5 + 0.1
    assert [list(s) for s in cut_where_unlike(*given)] == slow.cut_where_unlike(*given)


def test_cuts_where_frames_are_unlike_by_hand():
    similarity = [0.95, 0.85, 0.99, 0.92, 0.92]
    assert cut_where_unlike(similarity, 1, 0.9) == [range(0, 2), range(2, 6)]
    # the second least similar pair is the earlier .92
    assert cut_where_unlike(similarity, 3, 0.9) == [range(0, 2), range(2, 4), range(4, 6)]
    assert cut_where_unlike([], 8, 0.9) == [range(0, 1)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14))
def test_contiguous_clusters_equal_the_loops(labels):
    found = contiguous(labels)
    assert [list(s) for s in found] == slow.contiguous(labels)
    assert [frame for segment in found for frame in segment] == list(range(len(labels)))


@pytest.mark.parametrize(
    ("labels", "lengths"),
    [
        ([0, 0, 1, 1, 1], [2, 3]),
        ([0, 0, 1, 0, 0], [5]),  # both runs of 0 are longest; the 1 joins the earlier, and they meet
        ([0, 0, 0, 1, 1, 0, 0], [3, 4]),  # the shorter run of 0 joins its neighbour
        ([2, 1, 1, 3, 0, 0], [4, 2]),  # single frames join the longer run, of equal ones the earlier
        ([0, 1, 2, 3], [4]),  # no run: one segment
        ([7], [1]),
    ],
)
def test_contiguous_clusters_by_hand(labels, lengths):
    assert [len(segment) for segment in contiguous(labels)] == lengths


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([0.3, 0.6, 0.9]), st.integers(0, 999))
def test_the_cuts_that_save_most_equal_all_ways_to_cut(frames, tokens, share, seed):
    alike = torch.rand(frames - 1, tokens, generator=torch.Generator().manual_seed(seed)) < share
    assert [list(s) for s in most_static(alike)] == slow.most_static(alike.tolist())


def test_the_cuts_that_save_most_by_hand():
    """Of 3 tokens all are alike, then 2, then 1: frames 0 to 2 save 2 * 2, and 0 to 3 only 1 * 3."""
    alike = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    assert most_static(alike) == [range(0, 3), range(3, 4)]
    assert most_static(torch.ones(3, 2).bool()) == [range(0, 4)]
    assert most_static(torch.zeros(2, 2).bool()) == [range(0, 1), range(1, 2), range(2, 3)]
    assert most_static(torch.ones(0, 2).bool()) == [range(0, 1)]


def test_the_similarity_of_adjacent_frames():
    frames = torch.tensor([[3.0, 4.0], [3.0, 4.0], [4.0, -3.0], [4.0, 3.0]])
    expected = torch.tensor([1.0, 0.0, 7 / 25]).double()
    torch.testing.assert_close(adjacent_similarity(frames), expected)
