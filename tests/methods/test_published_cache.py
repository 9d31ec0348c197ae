"""Published methods on the KV cache, and ablations of dynamic pruning, each against loops: as pure
functions, and under real `generate` with a mask on the unmodified model."""

from __future__ import annotations

import pytest
import torch
from helpers.covering import across_families
from helpers.matrix import compare_with_the_oracle
from helpers.oracles import Look, Slow, share_of
from helpers.published_cache import pyramid, rule_of
from helpers.slow_methods import slow_version

from dycoke_lab.methods import TTM, Dynamic
from dycoke_lab.methods.ablations import DynamicAblation, DynamicMass
from dycoke_lab.methods.h2o import H2O
from dycoke_lab.methods.interface import Place, Step
from dycoke_lab.methods.pyramidkv import PyramidKV
from dycoke_lab.methods.quest import Quest
from dycoke_lab.methods.snapkv import SnapKV
from dycoke_lab.methods.streamingllm import StreamingLLM
from dycoke_lab.methods.tova import TOVA

NOWHERE = Place(*[torch.zeros(1, 1, dtype=torch.long)] * 3)
MORE = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))  # a second turn
TWO = ("llava_onevision", "gemma3")  # Gemma 3: tokens of an image see each other, and layers with a window
PUBLISHED = [SnapKV, PyramidKV, TOVA, H2O, StreamingLLM, Quest]
PURE = [
    SnapKV(0.6),
    SnapKV(0.8, window=2, kernel=3),
    PyramidKV(0.7, beta=4),
    PyramidKV(0.4),
    TOVA(0.6),
    TOVA(0.6, answer_counts=False),
    H2O(0.6),
    H2O(0.7, heavy_share=0.3, window=2),
    H2O(0.5, heavy_share=1.0, answer_counts=False),
    StreamingLLM(0.5),
    StreamingLLM(0.5, n_sink=0),
    StreamingLLM(0.9, answer_counts=False),
    Quest(0.5, page_size=4),
    Quest(0.7, page_size=3),
    DynamicAblation(0.6, heads="max", reselect_below=0.8),
    DynamicAblation(0.6, reselect_every=2),
    DynamicMass(mass=0.6),
    DynamicMass(mass=0.4, heads="max", reselect_every=3),
    DynamicMass(mass=0.5, inactive="evict"),
]
RUNS = [
    SnapKV(0.6, from_layer=1),
    SnapKV(0.8, window=6, kernel=3),
    PyramidKV(0.6),
    TOVA(0.6),
    H2O(0.6),
    H2O(0.7, heavy_share=0.3, window=4),
    StreamingLLM(0.6),
    Quest(0.6),
    DynamicAblation(0.6, from_layer=2, heads="max", reselect_below=0.97),
    DynamicAblation(0.6, from_layer=2, reselect_every=2),
    DynamicMass(mass=0.5, from_layer=2),
]


def steps_of(selector, attention, there, keys, queries, layer=2, pruned=(1, 2, 4, 5)):
    """What a selector has chosen after each step. attention: (steps, batch, heads, rows, visual)."""
    heads = keys.shape[1] if selector.scope == "head" else 1
    candidates = there[:, None].expand(-1, heads, -1) if selector.scope == "head" else there
    budget = selector.budget_in(candidates, layer, pruned)
    final = selector.evicts and selector.fixed_budget and not selector.answer_counts
    selected, previous, memory, found = None, None, {}, []
    for number, (seen, query) in enumerate(zip(attention, queries, strict=True)):
        seen = (
            seen
            * candidates.view(len(there), heads, -1).repeat_interleave(seen.shape[1] // heads, 1)[:, :, None]
        )
        scores = seen[:, :, -1].unflatten(1, (heads, -1)).mean(2)
        scores = scores if selector.scope == "head" else scores[:, 0]
        now = torch.minimum(budget, (budget - number).clamp(min=1)) if selector.answer_counts else budget
        step = Step(
            number, layer, scores, previous, candidates, now, selected, NOWHERE, memory, None, None,
            lambda seen=seen: seen[:, :, -selector.window :], lambda: keys, lambda query=query: query,
        )  # fmt: skip
        if selected is None or (selector.every_step and not final):
            choice = selector.select(step)
            selected = selected if choice is None else choice
            if selector.evicts and choice is not None:
                candidates = choice
        previous = scores
        found.append(None if selected is None else selected.view(len(there), heads, -1))
    return found


def slow_steps_of(selector, attention, there, keys, queries, layer=2, pruned=(1, 2, 4, 5)):
    """The same by loops: of each step, by batch element and head, a set, or None."""
    rule, found = rule_of(selector), []
    parts = keys.shape[1] if rule.scope == "head" else 1
    for b in range(len(there)):
        for head in range(parts):
            present = there[b].nonzero()[:, 0].tolist()
            now, memory, previous, mine = None, {}, None, []
            for number in range(len(attention)):
                candidates = present if now is None or rule.returns else sorted(now)
                seen = torch.zeros_like(attention[number, b].chunk(parts)[head])
                seen[:, :, candidates] = attention[number, b].chunk(parts)[head][:, :, candidates]
                scores = seen[:, -1].mean(0).tolist()
                look = Look(
                    b, number, scores, previous, seen, keys[b], candidates,
                    share_of(len(present), 1 - rule.prune_ratio), now, memory,
                    layer=layer, pruned=list(pruned), queries=queries[number, b],
                )  # fmt: skip
                choice = rule.choose(look) if now is None or rule.every_step else None
                now, previous = now if choice is None else choice, scores
                mine.append(now)
            found.append(mine)
    return found


def random_steps(shape, seed):
    """Attention that ties often, and whose sums are exact. shape: batch, query heads, key heads, rows,
    visual."""
    batch, heads, kv_heads, rows, visual = shape
    random = torch.Generator().manual_seed(seed)
    attention = torch.randint(0, 5, (6, batch, heads, rows, visual), generator=random).double() / 8
    there = torch.rand(batch, visual, generator=random) > 0.2
    there[:, 0] = True
    keys = torch.randint(-2, 3, (batch, kv_heads, visual, 4), generator=random).double()
    queries = torch.randint(-2, 3, (6, batch, heads, 4), generator=random).double()
    return attention, there, keys * there[:, None, :, None], queries


@pytest.mark.parametrize("selector", PURE, ids=str)
def test_choices_equal_the_loops_as_pure_functions(selector):
    shapes = [(2, 4, 2, 5, 33), (3, 2, 1, 1, 17), (1, 4, 4, 3, 48), (2, 2, 2, 4, 1), (1, 8, 2, 40, 7)]
    for seed, shape in enumerate([*shapes, *shapes]):
        given = random_steps(shape, seed)
        fast, slow = steps_of(selector, *given), slow_steps_of(selector, *given)
        for number, chosen in enumerate(fast):
            wanted = [mine[number] for mine in slow]
            if chosen is None:
                assert wanted == [None] * len(wanted)
                continue
            assert [set(row.nonzero()[:, 0].tolist()) for row in chosen.flatten(0, 1)] == wanted, (
                shape,
                number,
            )


@pytest.mark.parametrize(("family", "selector"), across_families(RUNS), indirect=["family"], ids=str)
def test_generation_equals_a_mask_on_the_unmodified_model(family, model, prompts, selector):
    compare_with_the_oracle(family, model, prompts, selector, Slow(rule=rule_of(selector)))


@pytest.mark.parametrize("family", TWO, indirect=True)
@pytest.mark.parametrize("kind", [SnapKV, PyramidKV, TOVA, H2O, StreamingLLM, Quest, DynamicMass])
def test_they_go_on_after_merging_and_in_a_second_turn(family, model, prompts, kind):
    """Batch elements retain different numbers of tokens."""
    merger, selector = TTM(threshold=0.9), kind(0.5, from_layer=2)
    slow = Slow(merge=slow_version(merger, 2, 128).merge, rule=rule_of(selector))
    compare_with_the_oracle(family, model, prompts, merger + selector, slow, more=MORE)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("kind", [TOVA, H2O, StreamingLLM])
def test_a_cache_of_a_fixed_size_shrinks_to_one_visual_token(family, model, prompts, kind):
    """And where the answer does not count, it does not shrink. With eager attention, too."""
    for selector in (kind(0.98, from_layer=1), kind(0.6, answer_counts=False)):
        slow = Slow(rule=rule_of(selector))
        compare_with_the_oracle(family, model, prompts, selector, slow, attention="eager")


REFERENCES = [TTM(0.5, reference=reference, combine="average") for reference in ("first", "previous")]


@pytest.mark.parametrize(("family", "merger"), across_families(REFERENCES), indirect=["family"], ids=str)
def test_merging_with_another_reference_equals_its_loops(family, model, prompts, merger):
    compare_with_the_oracle(family, model, prompts, merger)


def test_an_ablation_of_nothing_is_dynamic_pruning():
    given = random_steps((2, 4, 2, 3, 30), 0)
    for settings in (dict(prune_ratio=0.6), dict(prune_ratio=0.8, reselect_below=0.7)):
        one, two = (steps_of(kind(**settings), *given) for kind in (Dynamic, DynamicAblation))
        assert one[0] is None and two[0] is None
        assert all(torch.equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))


@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize("survives", [0.5, 0.25, 0.1])
def test_the_knob_says_how_many_survive(kind, survives):
    """To the nearest token, at the first decoding step, mean over layers."""
    attention, _, keys, queries = random_steps((2, 4, 2, 5, 160), 1)
    there, pruned = torch.ones(2, 160, dtype=torch.bool), (2, 3, 5, 6, 7)
    selector = kind(**{kind.knob: 1 - survives})
    kept = [
        steps_of(selector, attention, there, keys, queries, layer, pruned)[selector.can_return].sum(-1)
        for layer in pruned
    ]
    assert torch.stack(kept).double().mean(0).unique().tolist() == [160 * survives]


def test_the_line_of_pyramidkv_falls_and_keeps_its_mean():
    for mean in range(1, 60):
        for layers in range(1, 9):
            budgets = pyramid(mean, 120, layers, 20)
            there = torch.ones(3, 120, dtype=torch.bool)
            selector = PyramidKV(1 - mean / 120)
            found = [
                selector.budget_in(there, layer, range(layers)).unique().tolist() for layer in range(layers)
            ]
            assert found == [[budget] for budget in budgets]
            assert sum(budgets) == mean * layers and budgets == sorted(budgets, reverse=True)
            if layers > 1:
                assert budgets[-1] == mean // 20
    assert pyramid(40, 100, 5, 20) == [78, 59, 40, 21, 2]  # on paper: from 2 * 40 - 2 down to 2 by 19
    assert pyramid(60, 100, 5, 20) == [60] * 5  # twice the mean is more than there is
