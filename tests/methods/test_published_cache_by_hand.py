"""Published methods on the KV cache on numbers that one can check on paper; what they change and
refuse."""

from __future__ import annotations

import pytest
import torch
from helpers.matrix import generate
from helpers.oracles import merge

from dycoke_lab import TTM, temporal_merge
from dycoke_lab.methods import DyCoke, Dynamic
from dycoke_lab.methods.ablations import DynamicAblation, DynamicMass, enough
from dycoke_lab.methods.h2o import H2O
from dycoke_lab.methods.interface import Place, Step
from dycoke_lab.methods.pyramidkv import PyramidKV
from dycoke_lab.methods.quest import Quest
from dycoke_lab.methods.snapkv import SnapKV
from dycoke_lab.methods.streamingllm import StreamingLLM
from dycoke_lab.methods.temporal_merging import references
from dycoke_lab.methods.tova import TOVA

NOWHERE = Place(*[torch.zeros(1, 1, dtype=torch.long)] * 3)


def kept(selector, attention, budget, number=0, there=None, memory=None, **asked):
    """The tokens that one batch element with one head keeps. attention: (queries, visual)."""
    seen = torch.tensor(attention)[None, None]
    candidates = torch.ones(1, seen.shape[-1], dtype=torch.bool) if there is None else torch.tensor([there])
    head = selector.scope == "head"
    memory = {} if memory is None else memory
    asked = {f"_{name}": (lambda value=value: value) for name, value in asked.items()}
    step = Step(
        number, 1, seen[:, 0, -1:] if head else seen[:, 0, -1], None,
        candidates[:, None] if head else candidates, torch.tensor([[budget]] if head else [budget]),
        None, NOWHERE, memory, _window=lambda: seen, **asked,
    )  # fmt: skip
    return selector.select(step).flatten().nonzero()[:, 0].tolist()


def test_snapkv_sums_over_queries_and_averages_over_neighbours():
    attention = [[0.0, 0.0, 0.0, 0.5, 0.0, 0.3], [0.0, 0.2, 0.0, 0.4, 0.0, 0.2]]
    # sums: 0, .2, 0, .9, 0, .5; three neighbours' sums: .2, .2, 1.1, .9, 1.4, .5
    assert kept(SnapKV(kernel=3), attention, budget=2) == [2, 4]
    assert kept(SnapKV(kernel=1), attention, budget=2) == [3, 5]  # no neighbours
    # without token 2, token 1 is token 3's neighbour: .2, 1.1, -, .9, 1.4, .5
    assert kept(SnapKV(kernel=3), attention, 2, there=[True, True, False, True, True, True]) == [1, 4]


def test_tova_keeps_what_the_last_query_attends_to():
    assert kept(TOVA(), [[0.9, 0.0, 0.0, 0.0], [0.1, 0.3, 0.2, 0.3]], budget=2) == [1, 3]


def test_h2o_keeps_heavy_hitters_and_recent_tokens():
    memory = {}
    prompt = [[0.1, 0.3, 0.2, 0.0, 0.1, 0.0], [0.3, 0.2, 0.1, 0.1, 0.0, 0.0]]
    # sums .4, .5, .3, .1, .1, 0: of 4, tokens 4 and 5 are recent, 0 and 1 heavy
    assert kept(H2O(), prompt, budget=4, memory=memory) == [0, 1, 4, 5]
    # a step adds .4 to token 0: .8, .5; of 3, one is recent (5), for two are heavy (1.5 rounds up)
    there = [True, True, False, False, True, True]
    assert kept(H2O(), [[0.4, 0.0, 0.0, 0.0, 0.2, 0.3]], 3, 1, there, memory) == [0, 1, 5]
    assert kept(H2O(heavy_share=0.0), prompt, budget=2) == [4, 5]


def test_streamingllm_keeps_both_ends():
    attention = [[0.1] * 10]
    assert kept(StreamingLLM(), attention, budget=6) == [0, 1, 2, 3, 8, 9]
    assert kept(StreamingLLM(), attention, budget=3) == [0, 1, 2]
    assert kept(StreamingLLM(n_sink=1), attention, budget=3) == [0, 8, 9]


def test_quest_bounds_pages_by_their_smallest_and_largest_keys():
    keys = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, -1.0], [2.0, -2.0], [0.0, 0.0]])[None, None]
    # pages of two: from (0, 0) to (1, 3); from (2, -2) to (2, -1); (0, 0)
    asked = dict(keys=keys, attention=[[0.2] * 5], selector=Quest(page_size=2), number=1)
    assert kept(budget=2, query=torch.tensor([[[1.0, 1.0]]]), **asked) == [0, 1]  # 1 + 3, 2 - 1, 0
    assert kept(budget=2, query=torch.tensor([[[1.0, -1.0]]]), **asked) == [2, 3]  # 1 + 0, 2 + 2, 0
    assert kept(budget=3, query=torch.tensor([[[-1.0, 0.0]]]), **asked) == [0, 1, 4]  # 0, -2, 0: ties
    assert kept(budget=2, query=torch.tensor([[[-1.0, -1.0]]]), **asked) == [0, 1]  # 0, -2 + 2, 0
    assert kept(budget=3, query=torch.tensor([[[1.0, 1.0]]]), **asked) == [0, 1, 2]  # half a page


def test_attention_mass_is_the_smallest_set_that_holds_it():
    scores, there = torch.tensor([0.4, 0.1, 0.3, 0.2]), torch.ones(4, dtype=torch.bool)
    for mass, count in ((0.1, 1), (0.4, 1), (0.41, 2), (0.7, 2), (0.9, 3), (0.95, 4), (1.0, 4)):
        assert int(enough(scores, there, mass)) == count
    assert kept(DynamicMass(mass=0.6), [[0.2, 0.05, 0.15, 0.1]], 1, 1) == [0, 2]  # of .5 in all


def test_the_largest_head_may_rank():
    heads = torch.tensor([[[[0.8, 0.5, 0.3]], [[0.0, 0.4, 0.3]]]])  # means .4, .45, .3
    step = Step(
        1, 1, heads.mean(1)[:, 0], None, torch.ones(1, 3, dtype=torch.bool), torch.tensor([1]), None,
        NOWHERE, _window=lambda: heads,
    )  # fmt: skip
    assert DynamicAblation(heads="max").select(step).tolist() == [[True, False, False]]
    assert DynamicAblation(heads="mean").select(step).tolist() == [[False, True, False]]


@pytest.mark.parametrize(
    ("reference", "compared"),
    [("paper", [0, 0, 2, 2]), ("first", [0, 0, 0, 0]), ("previous", [0, 1, 2, 3])],
)
def test_the_references_of_a_window_of_five(reference, compared):
    assert references(6, 5, reference) == [None, *compared, None]


@pytest.mark.parametrize("reference", ["paper", "first", "previous"])
def test_merging_by_any_reference_equals_the_loops(reference):
    random = torch.Generator().manual_seed(0)
    for shape in [(9, 6, 4), (1, 3, 2), (5, 1, 3), (11, 7, 2)]:
        features = torch.randn(shape, generator=random, dtype=torch.float64)
        ties = torch.randint(-1, 2, shape, generator=random).double()
        for settings in (dict(ratio=0.6), dict(threshold=0.5037)):
            for given in (features, ties) if "threshold" in settings else (features,):
                threshold, ratio = settings.get("threshold"), settings.get("ratio")
                wanted = list(merge(given, 4, ratio, threshold, reference).values())
                merged = temporal_merge(given, ratio, 4, threshold=threshold, reference=reference)
                assert merged.into.tolist() == wanted


def test_dycoke_takes_the_reference():
    assert DyCoke(0.5, 0.9, reference="first") == TTM(0.5, reference="first") + Dynamic(0.9)


@pytest.mark.parametrize("family", ["llava_onevision", "gemma3"], indirect=True)
def test_each_changes_the_answer(family, model, prompts):
    inputs = family.inputs(prompts[0])
    full = generate(model, inputs)[1]
    methods = [SnapKV(), PyramidKV(), TOVA(), H2O(), StreamingLLM(), Quest()]
    for method in [*methods, DynamicMass(mass=0.5, from_layer=2)]:
        with method(model):
            logits = generate(model, inputs)[1]
        assert torch.equal(logits[:, 0], full[:, 0])  # the prefill is whole
        assert float((logits[:, 1:] - full[:, 1:]).abs().max()) > 1e-3, method


@pytest.mark.parametrize("family", ["gemma3"], indirect=True)
def test_a_scoring_layer_with_a_window_is_refused(model):
    with pytest.raises(ValueError, match="from_layer=3: layer 2, whose attention would be the score"):
        Quest(from_layer=3)(model).__enter__()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SnapKV(1.0), "prune_ratio=1.0 must be at least 0 and below 1"),
        (lambda: SnapKV(from_layer=-1), "from_layer=-1 must be a whole number from 0"),
        (lambda: SnapKV(window=0), "window=0 must be a whole number from 1"),
        (lambda: SnapKV(kernel=4), "kernel=4 must be odd"),
        (lambda: PyramidKV(beta=0), "beta=0 must be a whole number from 1"),
        (lambda: TOVA(answer_counts=1), "answer_counts=1 must be True or False"),
        (lambda: H2O(heavy_share=1.5), "heavy_share=1.5 must lie between 0 and 1"),
        (lambda: H2O(window=2.0), "window=2.0 must be a whole number"),
        (lambda: StreamingLLM(n_sink=-1), "n_sink=-1 must be a whole number from 0"),
        (lambda: Quest(page_size=0), "page_size=0 must be a whole number from 1"),
        (lambda: Quest(from_layer=0), "from_layer=0 must be a whole number from 1"),
        (lambda: DynamicAblation(heads="sum"), "heads='sum' must be 'mean' or 'max'"),
        (lambda: DynamicAblation(reselect_every=0), "reselect_every=0 must be a whole number from 1"),
        (lambda: DynamicMass(mass=0), "mass=0 would keep no token"),
        (lambda: DynamicMass(mass=1.1), "mass=1.1 must lie between 0 and 1"),
        (lambda: TTM(reference="last"), "reference='last' must be 'paper', 'first' or 'previous'"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
