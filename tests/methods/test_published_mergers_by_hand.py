"""Published mergers and the controls beside them on numbers that one can check on paper."""

from __future__ import annotations

import math

import pytest
import torch

from dycoke_lab.methods import VideoTokens
from dycoke_lab.methods.before_llm import (
    EveryNth,
    FewerFrames,
    FirstTokens,
    RandomTokens,
    SmallerFrames,
    smaller_grid,
)
from dycoke_lab.methods.divprune import DivPrune
from dycoke_lab.methods.evs import EVS
from dycoke_lab.methods.prumerge import PruMergePlus
from dycoke_lab.methods.temporal_merging import average_into
from dycoke_lab.methods.tome import ToMe
from dycoke_lab.methods.vidcom2 import VidCom2, likeness
from dycoke_lab.methods.visionzip import VisionZip


def video(*frames, received=None, keys=None):
    """One video of frames with one row of tokens."""
    features = torch.tensor(frames, dtype=torch.float64)[None, :, None]
    more = {}
    if received is not None:
        more["vision_attention"] = torch.tensor(received, dtype=torch.float64)[None, None, None]
    if keys is not None:
        more["vision_keys"] = torch.tensor(keys, dtype=torch.float64)[None, None, None]
    return VideoTokens(features, **more)


def into(merger, tokens):
    return merger.merge(tokens).into[0].tolist()


@pytest.fixture
def five():
    """The second and fourth token receive most; the last one's key is nearest to the third's."""
    keys = [[1, 0], [5, 5], [0, 1], [5, 5], [1, 3]]
    return video([[1], [2], [4], [8], [16]], received=[0.1, 0.5, 0.1, 0.2, 0.1], keys=keys)


def test_visionzip_adds_the_mean_of_the_rest_to_its_targets(five):
    """Of the rest 0, 2 and 4, each third one is a target: 0. It becomes 1 + (4 + 16) / 2."""
    found = VisionZip(0.4, 0.5).merge(five)
    assert found.into.tolist() == [[0, 1, 0, 3, 0]]
    assert found.features[0, [0, 1, 3], 0].tolist() == [11, 2, 8]


def test_visionzip_merges_into_the_target_with_the_nearest_key(five):
    """Two targets are 0 and 2: the stride is 3 // 2 = 1. Token 4 goes to 2: 4 + 16."""
    found = VisionZip(0.4, 1).merge(five)
    assert found.into.tolist() == [[0, 1, 2, 3, 2]]
    assert found.features[0, :4, 0].tolist() == [1, 2, 20, 8]
    assert into(VisionZip(0.4, 0), five) == [-1, 1, -1, 3, -1]


@pytest.fixture
def six():
    """Pairs with equal keys; weights .05, and .75 of the last."""
    keys = [[1, 0], [1, 0], [0, 1], [0, 1], [-1, 0], [-1, 0]]
    return video([[10], [20], [30], [40], [50], [60]], received=[1, 1, 1, 1, 1, 15], keys=keys)


def test_prumerge_keeps_outliers_and_a_stride(six):
    """Q1 = Q3 = 1, so 15 alone is an outlier; the stride is int(6 / 3) = 2. Each adds one neighbour: 10
    + .05 * 20, 30 + .05 * 40, 50 + .75 * 60, 60 + .05 * 50; the sum of the rest, .05 * (20 + 40), stands
    at the first of them."""
    found = PruMergePlus().merge(six)
    assert found.into.tolist() == [[0, 1, 2, 1, 4, 5]]
    wanted = torch.tensor([11, 3, 32, 95, 62.5], dtype=torch.float64)
    torch.testing.assert_close(found.features[0, [0, 1, 2, 4, 5], 0], wanted)


def test_prumerge_takes_for_outliers_what_is_above_its_fence():
    """Q1 = 3, Q3 = 7: the fence is 7 + 1.5 * 4 = 13, and 13 is not above it; the stride is int(9 / 3)."""
    received = [1, 2, 3, 4, 5, 6, 7, 13, 14]
    tokens = video([[float(t)] for t in range(9)], received=received, keys=[[1.0]] * 9)
    assert into(PruMergePlus(), tokens) == [0, 1, 1, 3, 1, 1, 6, 1, 8]


def test_prumerge_by_a_ratio_keeps_that_many(six):
    """Three: the most attended, the first of the others, and the sum of the rest: .05 * (20 + ... + 50)."""
    found = PruMergePlus(0.5).merge(six)
    assert found.into.tolist() == [[0, 1, 1, 1, 1, 5]]
    assert found.features[0, 1, 0].item() == pytest.approx(7)


def test_vidcom2_gives_a_frame_that_differs_more():
    """The first two channels vary least. Frame 1 has the token that differs: its softmax is 1, the
    other's 0, and of two tokens they keep .5 * 1.5 * 2 = 1.5 and .5 * .5 * 2 = .5, halves up."""
    tokens = video([[1, 0, 9, -9], [1, 0, -9, 9]], [[1, 0, 9, 9], [0, 1, -9, -9]])
    assert into(VidCom2(0.5), tokens) == [0, -1, 2, 3]
    assert into(VidCom2(0.25), tokens) == [0, -1, -1, 3]


def test_vidcom2_adds_five_gaussians():
    """At a squared distance of 2: exp(-2 / 2a) for a = 1/8, 1/4, 1/2, 1, 2."""
    found = likeness(torch.tensor([[[[1.0, 1.0]]]], dtype=torch.float64), torch.zeros(1, 1, 1, 2).double())
    assert found.item() == pytest.approx(sum(map(math.exp, (-8, -4, -2, -1, -0.5))))


def test_evs_keeps_the_first_frame_and_what_changes_most():
    """Changes: 0, 1 - .71; 1, 0."""
    tokens = video([[1, 0], [0, 1]], [[2, 0], [1, 1]], [[0, 1], [3, 3]])
    assert into(EVS(0.5), tokens) == [0, 1, -1, -1, 4, -1]
    assert into(EVS(0.3), tokens) == [0, 1, -1, 3, 4, -1]  # int(.7 * 6) = 4
    assert into(EVS(0.1), tokens) == [0, 1, 2, 3, 4, -1]  # of equal changes, the earlier one
    assert into(EVS(1.0), tokens) == [0, 1, -1, -1, -1, -1]


def test_divprune_starts_with_the_loneliest_token():
    """At 0, 10, 20, 90 and 180 degrees: 180 is 90 from its nearest; then 0, then 90."""
    angles = (0, 10, 20, 90, 180)
    tokens = video(*([[math.cos(math.radians(angle)), math.sin(math.radians(angle))]] for angle in angles))
    assert into(DivPrune(0.2), tokens) == [-1, -1, -1, -1, 4]
    assert into(DivPrune(0.4), tokens) == [0, -1, -1, -1, 4]
    assert into(DivPrune(0.6), tokens) == [0, -1, -1, 3, 4]


def test_tome_merges_again_what_it_merged():
    """2 joins 3, which is (1.5, 1) then, and the even one of the three left; it joins 1."""
    tokens = video([[1, 0], [0, 1], [1, 1], [2, 1]])
    found = ToMe(0.5).merge(tokens)
    assert found.into.tolist() == [[0, 1, 1, 1]] and found.average
    mean = average_into(tokens.features.flatten(1, 3), found.into)[0, 1]
    assert mean.tolist() == [1, 1]  # (0 + 1 + 2) / 3: of all three tokens, not of two halves
    assert into(ToMe(0.75), tokens) == [0, 1, 3, 3]
    assert into(ToMe(0.25), tokens) == [1, 1, 1, 1]
    assert into(ToMe(0.5, r=0.5), tokens) == [3, 1, 3, 3]  # both even ones at once


def test_fewer_frames_are_the_middles_of_equal_stretches():
    tokens = VideoTokens(torch.zeros(1, 8, 1, 2, 1))
    assert [t for t in into(FewerFrames(0.25), tokens) if t >= 0] == [4, 5, 12, 13]
    assert [t for t in into(FewerFrames(0.01), tokens) if t >= 0] == [8, 9]


def test_smaller_frames_are_means_of_four():
    tokens = VideoTokens(torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4, 1))
    found = SmallerFrames(0.25).merge(tokens)
    places = [5, 7, 13, 15]
    assert [t for t in found.into[0].tolist() if t >= 0] == places
    assert found.features[0, places, 0].tolist() == [2.5, 4.5, 10.5, 12.5]


def test_smaller_frames_equal_the_pooling_of_llava_onevision(tiny):
    config = tiny.config.vision_config
    side = config.image_size // config.patch_size
    features = torch.randn(2, side * side, 6, dtype=torch.float64)
    pooled = tiny.model.apply_pooling(features)
    found = SmallerFrames(0.25).merge(VideoTokens(features.view(1, 2, side, side, 6)))
    kept = found.into[0] >= 0
    torch.testing.assert_close(found.features[0, kept], pooled.flatten(0, 1))


def test_a_smaller_grid_is_shaped_alike():
    assert smaller_grid(14, 14, 0.25) == (7, 7) and smaller_grid(14, 14, 0.1) == (4, 5)
    assert smaller_grid(10, 20, 0.1) == (3, 7) and smaller_grid(1, 1, 0.1) == (1, 1)


def test_subsets_look_at_no_token():
    tokens = VideoTokens(torch.zeros(2, 5, 1, 2, 1))
    assert into(EveryNth(0.3), tokens) == [0, -1, -1, -1, 4, -1, -1, 7, -1, -1]
    assert into(FirstTokens(0.3), tokens) == [0, 1, 2, *[-1] * 7]
    first, second = RandomTokens(0.3, seed=1).merge(tokens).into
    assert torch.equal(first, second) and int((first >= 0).sum()) == 3
    others = [into(RandomTokens(0.3, seed=seed), tokens) for seed in range(5)]
    assert len(set(map(tuple, others))) > 1 and others[1] == first.tolist()
