"""Temporal merging against token-by-token loops, and what must hold for any input."""

from __future__ import annotations

import inspect

import pytest
import torch
from helpers.oracles import merge
from hypothesis import given, settings
from hypothesis import strategies as st

from dycoke_lab import temporal_merge
from dycoke_lab.methods.temporal_merging import average_into, references

shapes = st.tuples(st.integers(1, 11), st.integers(1, 9), st.integers(1, 5))
ratios = st.floats(0, 1)


def draw(shape, seed=0):
    """Features that repeat now and then, so that ties and chains of merges occur."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=g).double() + 0.01 * torch.randint(0, 2, shape, generator=g)


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(2, 7), ratios, st.integers(0, 99))
def test_merging_by_a_ratio_equals_the_loops(shape, window, ratio, seed):
    random = torch.Generator().manual_seed(seed)
    features = torch.randn((*shape[:2], shape[2] + 1), generator=random, dtype=torch.float64)
    merged = temporal_merge(features, ratio, window)
    assert merged.into.tolist() == list(merge(features, window, ratio).values())


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(2, 7), st.integers(-95, 95), st.integers(0, 99))
def test_merging_by_a_threshold_equals_the_loops(shape, window, threshold, seed):
    features, threshold = draw(shape, seed), threshold / 100 + 0.0037  # no cosine of these features is that
    merged = temporal_merge(features, window=window, threshold=threshold)
    assert merged.into.tolist() == list(merge(features, window, threshold=threshold).values())


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(2, 7), ratios, st.integers(0, 99))
def test_what_holds_for_the_merging_of_any_video(shape, window, ratio, seed):
    frames, tokens, _ = shape
    features = draw(shape, seed)
    merged = temporal_merge(features, ratio, window)
    kept = merged.kept.tolist()
    assert kept == sorted(set(kept))
    assert set(range(tokens)) <= set(kept), "the first frame is kept whole"
    per_frame = [sum(k // tokens == f for k in kept) for f in range(frames)]
    for f, n in enumerate(per_frame):
        assert n == tokens if f % window == 0 else abs(n - (1 - ratio) * tokens) <= 0.5 + 1e-6
    into = merged.into
    assert set(into.tolist()) == set(kept)
    assert (into[into] == into).all() and (into % tokens == torch.arange(frames * tokens) % tokens).all()
    assert (into // (tokens * window) == torch.arange(frames * tokens) // (tokens * window)).all()
    assert torch.equal(merged.features, features.flatten(0, 1)[merged.kept])


def test_the_references_in_the_papers_window_of_four():
    assert references(9, 4) == [None, 0, 0, 2, None, 4, 4, 6, None]


def test_equal_frames_merge_at_a_threshold_of_1():
    """Though by rounding their cosine may lie below."""
    features = draw((1, 16, 24)).repeat(4, 1, 1)
    assert temporal_merge(features, threshold=1.0).retained == 0.25


def test_the_published_setting_retains_what_the_paper_says():
    merged = temporal_merge(torch.randn(32, 196, 8), 0.7)
    assert len(merged.kept) == 8 * (196 + 3 * 59)  # 59 of 196 is 30 %; the reference code keeps 3,098 in all
    assert merged.retained == pytest.approx(1 - 0.75 * 0.7, abs=0.002)


def test_averaging_is_the_mean_of_all_that_was_merged():
    features = draw((6, 5, 3), 3)
    merged = temporal_merge(features, 0.6, combine="average")
    flat, into = features.flatten(0, 1), merge(features, 4, 0.6)
    for row, kept in zip(merged.features, merged.kept.tolist(), strict=True):
        group = [flat[t] for t, end in into.items() if end == kept]
        torch.testing.assert_close(row, torch.stack(group).mean(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(merge_ratio=1.2), "merge_ratio=1.2 must lie between 0"),
        (dict(merge_ratio=None), "merge_ratio=None must lie between"),
        (dict(merge_ratio=float("nan")), "merge_ratio=nan"),
        (dict(threshold=2.0), "threshold=2.0 is a cosine"),
        (dict(merge_ratio=0.5, threshold=0.5), "not both"),
        (dict(merge_ratio=0.5, window=1), "window=1 must be a whole number of frames from 2"),
        (dict(merge_ratio=0.5, combine="mean"), "combine='mean' must be 'drop' or 'average'"),
    ],
)
def test_bad_settings_of_merging_are_named(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        temporal_merge(torch.randn(4, 4, 2), **arguments)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 2), (2, 4, 4, 2)])
def test_bad_shapes_of_features_are_named(shape):
    with pytest.raises(ValueError, match="features has shape"):
        inspect.unwrap(temporal_merge)(torch.zeros(shape), 0.5)  # as outside the tests: no check of shapes


def test_tokens_that_are_dropped_count_in_no_mean():
    features = draw((1, 6, 3), 1)
    into = torch.tensor([[0, 0, -1, 3, 0, -1]])
    found = average_into(features, into)
    torch.testing.assert_close(found[0, 0], features[0, [0, 1, 4]].mean(0))
    torch.testing.assert_close(found[0, 3], features[0, 3])
    assert not found[0, [1, 2, 4, 5]].any()
