"""What selectors would keep, the best choice, and shares of attention: by loops, and by what really runs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers.families import decoder_of
from helpers.oracles import Look, best, share_of
from helpers.own_methods import Chessboard, HeavyHitters, WindowOfQueries, chessboard
from helpers.slow_methods import slow_version
from transformers.cache_utils import DynamicCache

from dycoke_lab import capture_attention
from dycoke_lab.apply import prunable_layers
from dycoke_lab.attention import coverage as module
from dycoke_lab.attention.coverage import aimed, chosen, coverage, looked
from dycoke_lab.attention.trace import Trace
from dycoke_lab.methods import METHODS, PUBLISHED, TTM, Compression, Dynamic, Random, Selector
from dycoke_lab.methods.ablations import DynamicAblation
from dycoke_lab.methods.quest import Quest
from dycoke_lab.models.token_layout import TokenGrid

SHARED = [
    name for name, kind in METHODS.items()
    if name not in PUBLISHED and issubclass(kind, Selector) and kind.scope == "shared"
]  # fmt: skip
LOOPS = (
    "dynamic", "layer_vote", "reference_code", "last_query", "first_step", "random", "uniform", "keep_first",
    "keep_none", "hindsight",
)  # fmt: skip
VISUAL = 32  # two frames of 4 x 4
MOVED = 0.92  # below which the attention of this trace lies at some steps


@pytest.fixture
def trace():
    """Six steps of three layers, two heads and two samples; the first sample lacks tokens that were merged
    away."""
    generator = torch.Generator().manual_seed(3)
    there = torch.ones(2, VISUAL, dtype=torch.bool)
    there[0, [3, 17, 18, 30]] = False
    drift = torch.rand(6, 1, 2, 2, VISUAL, generator=generator).cumsum(0)
    attention = (drift + torch.rand(6, 3, 2, 2, VISUAL, generator=generator)) ** 3 * there
    attention = attention / attention.sum(-1, keepdim=True) * 0.6  # the rest goes to text
    attended = [there.expand(3, -1, -1)] * 6
    return Trace(((TokenGrid(2, 4, 4),),) * 2, list(attention.double()), attended)


def candidates(trace, sample):
    return trace.attended[0][0, sample].nonzero()[:, 0].tolist()


def slowly_chosen(selector, trace, choose, below=1):
    """Step by step and sample by sample, in plain loops: sets of each sample, step by step. below: how many
    layers score."""
    first, samples = selector.from_layer, []
    scoring = range(max(0, first - below), first)
    for sample in range(2):
        above = trace.attention[0][first:, :, sample].mean((0, 1)).tolist()
        there, now, previous, memory, kept = candidates(trace, sample), None, None, {}, []
        for number, step in enumerate(trace.attention):
            by_layer = [step[layer, :, sample].mean(0).tolist() for layer in scoring]
            scores = [sum(column) / len(by_layer) for column in zip(*by_layer, strict=True)]
            budget = share_of(len(there), 1 - selector.prune_ratio)
            about = sample, number, scores, previous, step, step, there, budget, now, memory
            look = Look(*about, by_layer, above if number else None)
            if now is None or selector.every_step:
                found = choose(look)
                now = now if found is None else found
            previous = scores
            kept.append(set(there) if now is None else now)
        samples.append(kept[1:])
    return samples


def sets(kept):
    return [[set(step[sample].nonzero()[:, 0].tolist()) for step in kept] for sample in range(2)]


@pytest.mark.parametrize("from_layer", [1, 2])
@pytest.mark.parametrize("name", LOOPS)
def test_what_a_selector_would_keep_equals_its_loops(trace, name, from_layer):
    fields = {"future": torch.rand(2, VISUAL)} if name == "hindsight" else {}
    if name in ("dynamic", "layer_vote", "reference_code"):
        fields["reselect_below"] = MOVED
    selector = METHODS[name](prune_ratio=0.7, from_layer=from_layer, **fields)
    rule = slow_version(selector, 2, VISUAL).rule
    kept = chosen(selector, trace)
    assert kept.shape == (5, 2, VISUAL) and kept.dtype == torch.bool
    assert sets(kept) == slowly_chosen(selector, trace, rule.choose, rule.layers_below)


def test_dynamic_choices_of_this_trace_change_at_some_steps_and_not_at_others(trace):
    kept = chosen(Dynamic(0.7, 1, reselect_below=MOVED), trace)
    anew = {torch.equal(one, two) for one, two in pairwise(kept)}
    assert anew == {True, False}


def test_a_selector_of_ones_own_may_use_places(trace):
    selector = Chessboard(0.7, from_layer=2)
    assert sets(chosen(selector, trace)) == slowly_chosen(selector, trace, chessboard)


def test_only_a_shared_choice_is_simulated(trace):
    for selector, scope in ((HeavyHitters(0.5, 1), "layer"), (WindowOfQueries(0.5, 1), "head")):
        with pytest.raises(ValueError, match=f"chooses for each {scope}: only a shared choice"):
            chosen(selector, trace)


def test_heads_are_there_and_keys_are_not(trace):
    kept = chosen(DynamicAblation(0.7, from_layer=2, heads="max", reselect_every=1), trace)
    for step, attention in zip(kept, trace.attention[1:], strict=True):
        best = attention[1].amax(0)
        for sample in range(2):
            there = step[sample]
            assert best[sample][there].min() >= best[sample][~there & (best[sample] > 0)].max()
    with pytest.raises(ValueError, match=r"Quest\(.*needs keys and queries"):
        chosen(Quest(0.7, from_layer=2), trace)


@pytest.mark.parametrize("by_head", [True, False])
def test_what_layers_look_at_equals_its_loops(trace, by_head):
    """Each token's share of what the video gets: of each head, and their mean, or of the mean over heads."""
    found = looked(trace, by_head)
    assert found.shape == (5, 3, 2, VISUAL)
    for number, step in enumerate(trace.attention[1:]):
        for layer in range(3):
            for sample in range(2):
                rows = step[layer, :, sample].tolist()
                rows = rows if by_head else [[sum(column) / 2 for column in zip(*rows, strict=True)]]
                shares = [[value / sum(row) for value in row] for row in rows]
                expected = [sum(column) / len(rows) for column in zip(*shares, strict=True)]
                assert found[number, layer, sample].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def seen(trace):
    """What the layers above the first look at, their mean."""
    return looked(trace)[:, 1:].mean(1)


def test_what_a_step_aims_at_equals_its_loops(seen):
    written = torch.tensor([[1, 1], [1, 1], [1, 1], [0, 1], [0, 1]]).bool()
    found = aimed(seen, written)
    for sample in range(2):
        real = [number for number in range(5) if written[number, sample]]
        for number in real:
            others = [other for other in real if other != number]
            more = []
            for token in range(VISUAL):
                mean = sum(float(seen[other, sample, token]) for other in others) / len(others)
                more.append(max(0.0, float(seen[number, sample, token]) - mean))
            expected = [value / sum(more) for value in more]
            assert found[number, sample].tolist() == pytest.approx(expected, abs=1e-9)


def test_a_sink_is_not_aimed_at(seen):
    """A token that gets the same at each step tells nothing of what the step needs."""
    seen = seen * 0.5
    seen[..., 0] = 0.5
    found = aimed(seen, torch.ones(5, 2, dtype=torch.bool))
    assert not found[..., 0].any() and (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(5, 2).double())
    alone = aimed(seen[:1], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(alone, seen[:1] / seen[:1].sum(-1, keepdim=True))  # there is no other step


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_the_best_choice_equals_its_loops(trace, seen, ratio):
    kept = module.best(seen, trace.attended[0][1], ratio)
    for sample in range(2):
        there = candidates(trace, sample)
        for number in range(5):
            expected = best(seen[number, sample].tolist(), there, share_of(len(there), 1 - ratio))
            assert set(kept[number, sample].nonzero()[:, 0].tolist()) == expected


def test_coverage_equals_its_loops(trace, seen):
    kept = chosen(Random(0.6, from_layer=1), trace)
    found = coverage(kept, seen)
    assert found.shape == (5, 2)
    for number in range(5):
        for sample in range(2):
            here = kept[number, sample].nonzero()[:, 0].tolist()
            expected = sum(float(seen[number, sample, token]) for token in here)
            assert float(found[number, sample]) == pytest.approx(expected, abs=1e-12)


def test_coverage_is_1_of_everything_and_0_of_nothing_and_no_choice_beats_the_best(trace, seen):
    everything = torch.ones(5, 2, VISUAL, dtype=torch.bool)
    for shares in (seen, aimed(seen, everything[..., 0])):
        torch.testing.assert_close(coverage(everything, shares), torch.ones(5, 2).double())
        assert not coverage(~everything, shares).any()
        most = coverage(module.best(shares, trace.attended[0][1], 0.7), shares)
        for name in LOOPS:
            fields = {"future": trace.future(1)} if name == "hindsight" else {}
            kept = chosen(METHODS[name](prune_ratio=0.7, from_layer=1, **fields), trace)
            if name != "reference_code":  # which may keep all
                assert (coverage(kept, shares) <= most + 1e-9).all()
    empty = Trace(trace.videos, [torch.zeros_like(step) for step in trace.attention], trace.attended)
    assert not looked(empty).any()


def test_places_are_those_of_the_grid(trace):
    place = module.place_of(trace)
    for number in range(VISUAL):
        frame, row, col = number // 16, number // 4 % 4, number % 4
        assert [int(part[1, number]) for part in place] == [frame, row, col]


@pytest.mark.parametrize("merger", [None, TTM(0.5)], ids=["whole", "merged"])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "gemma3"], indirect=True)
def test_selectors_keep_in_a_real_run_what_they_would(model, inputs, merger):
    """With the same answer: the layers below L, which score, are not pruned."""
    merging = Compression() if merger is None else Compression.of(merger)
    answer = torch.randint(20, 60, (2, 5))

    def captured(compression):
        with compression(model), capture_attention(model, heads="all") as trace, torch.no_grad():
            cache = DynamicCache(config=decoder_of(model).config)
            model(**inputs, past_key_values=cache)
            for token in answer.T:
                model(input_ids=token[:, None], past_key_values=cache)
        return trace

    full, allowed = captured(merging), prunable_layers(model)
    anew = 0
    for from_layer in list(allowed)[:2]:
        for name in SHARED:
            fields = {"future": full.future(from_layer)} if name == "hindsight" else {}
            selector = METHODS[name](prune_ratio=0.7, from_layer=from_layer, **fields)
            really = captured(merging + selector)
            kept = chosen(selector, full)
            for layer in allowed[from_layer]:
                assert torch.equal(kept, torch.stack([step[layer] for step in really.attended[1:]])), name
            anew += not torch.equal(kept[0], kept[-1])
        assert full.attended[0][from_layer - 1].all() == (merger is None)
    assert anew  # some choose anew
