"""Methods of one's own on the three seams, each against loops written from its paper."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import own_methods
from helpers.families import FAMILIES, frames
from helpers.matrix import FEW_BEFORE_ALL, compare_with_the_oracle
from helpers.oracles import Rule, Slow, keep_share
from helpers.own_methods import (
    BY_SUM,
    BY_WINDOW,
    AboveThreshold,
    Chessboard,
    HeavyHitters,
    IntoTheNearest,
    LargestVisionKeys,
    LikeTheText,
    MostAttendedPatches,
    Pyramid,
    SmallestKeys,
    WindowOfQueries,
    WithinFrame,
    above_threshold,
    by_sum,
    chessboard,
    into_the_nearest,
    like_the_text,
    most_attended,
    pairs_within_frames,
    smallest_keys,
)
from helpers.slow_methods import slow_version
from helpers.vision_oracle import attention_received, vision_keys

from dycoke_lab.methods import METHODS, TTM, DyCoke, Dynamic, Method, Selector

MORE = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))  # a second turn


@pytest.fixture
def compare(family, model, prompts):
    return partial(compare_with_the_oracle, family, model, prompts)


@pytest.fixture
def first_layer(family):
    """The first layer before which a family's prefill can drop tokens."""
    if family.name == "gemma3":
        pytest.skip("layers with a sliding window cannot drop tokens in the prefill: refused")
    return 2 if family.name == "qwen3_vl" else 1  # its first two layers are given visual tokens of their own


def test_merging_within_frames_equals_its_loops(compare):
    gone = compare(WithinFrame(5), Slow(merge=partial(pairs_within_frames, count=5), average=True))
    assert [int(row.sum()) for row in gone] == [8 * 5] * 2


def test_merging_within_frames_composes_with_pruning(compare):
    """And goes on in a second turn."""
    rule = slow_version(Dynamic(0.5, from_layer=2), 2, 128).rule
    slow = Slow(merge=partial(pairs_within_frames, count=3), average=True, rule=rule)
    compare(WithinFrame(3) + Dynamic(0.5, from_layer=2), slow, more=MORE)


def test_keeping_by_vision_attention_equals_its_loops(family, model, inputs, compare):
    if family.name == "qwen2_5_vl":
        pytest.skip("its vision tower reorders patches: refused, as another test says")
    received = attention_received(model, inputs, layer=-2, frames=8)
    gone = compare(MostAttendedPatches(0.4), Slow(merge=partial(most_attended, received=received, share=0.4)))
    assert [int(row.sum()) for row in gone] == [8 * 10] * 2
    assert not torch.equal(*gone)


def test_keeping_by_vision_keys_equals_its_loops(family, model, inputs, compare):
    if family.name == "qwen2_5_vl":
        pytest.skip("its vision tower reorders patches: refused, as another test says")
    keys = vision_keys(model, inputs, layer=0, frames=8)
    sizes = [[[sum(x * x for x in key) ** 0.5 for key in frame] for frame in video] for video in keys]
    compare(LargestVisionKeys(), Slow(merge=partial(most_attended, received=sizes, share=0.5)))


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_vision_attention_is_refused_where_patches_are_reordered(model):
    with pytest.raises(ValueError, match=r"MostAttendedPatches needs vision_attention, .*qwen2_5_vl"):
        MostAttendedPatches()(model).__enter__()


def test_keeping_by_the_text_with_new_features_equals_its_loops(compare):
    compare(LikeTheText(), Slow(merge=like_the_text, features=lambda video: 2 * video.features.flatten(0, 2)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_choice_by_a_window_of_queries_equals_its_loops(compare, attention):
    compare(WindowOfQueries(0.6, from_layer=2), BY_WINDOW, attention=attention)


def test_a_running_sum_with_eviction_equals_its_loops(compare):
    compare(HeavyHitters(0.6, from_layer=1), BY_SUM)


@pytest.mark.parametrize("family", FEW_BEFORE_ALL, indirect=True)
@pytest.mark.parametrize("scope", ["shared", "head"])
def test_a_running_sum_may_be_shared_or_one_a_head(compare, scope):
    own = type("Own", (HeavyHitters,), {"scope": scope})
    rule = Rule(by_sum, from_layer=2, prune_ratio=0.6, scope=scope, every_step=True)
    compare(own(0.6, from_layer=2), Slow(rule=rule), more=MORE)


@pytest.mark.parametrize("family", FEW_BEFORE_ALL, indirect=True)
@pytest.mark.parametrize(
    ("method", "loops", "scope"),
    [
        (AboveThreshold, above_threshold, "head"),
        (SmallestKeys, smallest_keys, "layer"),
        (Chessboard, chessboard, "shared"),
    ],
)
def test_what_else_a_selector_may_use_equals_its_loops(compare, method, loops, scope):
    """Keys, places, and numbers of tokens that are not fixed."""
    compare(method(0.6, from_layer=2), Slow(rule=Rule(loops, 2, 0.6, scope)), more=MORE)


@pytest.mark.parametrize("family", FEW_BEFORE_ALL, indirect=True)
def test_heads_may_keep_different_numbers_at_every_step(compare):
    own = type("Own", (AboveThreshold,), {"every_step": True})
    rule = Rule(above_threshold, from_layer=1, prune_ratio=0.6, scope="head", every_step=True)
    compare(own(0.6, from_layer=1), Slow(rule=rule))


def test_own_selectors_compose_with_temporal_merging(compare):
    merger = TTM(threshold=0.9)
    merge = slow_version(merger, 2, 128).merge
    compare(merger + WindowOfQueries(0.6, from_layer=2), Slow(merge=merge, rule=BY_WINDOW.rule))
    compare(merger + HeavyHitters(0.6, from_layer=1), Slow(merge=merge, rule=BY_SUM.rule), more=MORE)


def test_dropping_before_several_layers_equals_its_loops(first_layer, compare):
    reduce = {layer: partial(keep_share, share=0.7) for layer in range(first_layer, 4)}
    compare(Pyramid(0.3, from_layer=first_layer), Slow(reduce=reduce))


def test_merging_hidden_states_before_two_layers_equals_its_loops(first_layer, compare):
    reduce = {layer: partial(into_the_nearest, share=0.6) for layer in (first_layer, first_layer + 1)}
    compare(IntoTheNearest(0.4, from_layer=first_layer), Slow(reduce=reduce, average=True), more=MORE)


def test_all_three_seams_compose(first_layer, compare):
    dycoke = DyCoke(0.5, 0.6, from_layer=3)
    parts = slow_version(dycoke, 2, 128)
    reduce = {layer: partial(keep_share, share=0.7) for layer in range(first_layer, 3)}

    @dataclass(frozen=True)
    class BelowLayer3(Pyramid):
        def layers(self, depth: int) -> range:
            return range(self.from_layer, 3)

    slow = Slow(merge=parts.merge, reduce=reduce, rule=parts.rule)
    compare(dycoke + BelowLayer3(0.3, from_layer=first_layer), slow)


def test_the_example_of_contributing_is_a_running_sum():
    """The page's method, word for word, equals the loops of HeavyHitters."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    if not (blocks := re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        pytest.skip("CONTRIBUTING.md has no example yet")
    space: dict = {"__name__": "example"}
    before = set(METHODS)
    exec(blocks[0], space)
    for name in set(METHODS) - before:
        METHODS.pop(name)
    (kind,) = (
        kind
        for kind in space.values()
        if getattr(kind, "__module__", "") == "example" and issubclass(kind, Method)
    )
    assert issubclass(kind, Selector) and kind.scope == "layer" and kind.every_step
    family = FAMILIES["llava_onevision"]
    prompts = [["user\n", ("video", frames(8, seed)), "what happens first?"] for seed in (0, 1)]
    compare_with_the_oracle(family, family.model(), prompts, kind(prune_ratio=0.6, from_layer=1), BY_SUM)


def test_own_methods_are_under_20_lines():
    for kind in vars(own_methods).values():
        if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == own_methods.__name__:
            assert len(inspect.getsource(kind).splitlines()) < 20, kind
