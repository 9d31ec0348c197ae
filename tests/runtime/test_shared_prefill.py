"""Generations that share a prefill equal those that have their own, for every selector."""

from __future__ import annotations

from contextlib import contextmanager
from typing import ClassVar

import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.matrix import WORDS, together
from helpers.own_methods import AboveThreshold, Chessboard, HeavyHitters, SmallestKeys, WindowOfQueries
from helpers.tiny import cache_of, inputs_of, text_of, writing_words

from dycoke_lab.apply import from_layer_for
from dycoke_lab.methods import (
    METHODS,
    PUBLISHED,
    TTM,
    Compression,
    DyCoke,
    Dynamic,
    FastV,
    LastQuery,
    Selector,
)
from dycoke_lab.runtime.session import active_session
from dycoke_lab.runtime.shared_prefill import SharedPrefill

STEPS = 5
SELECTORS = [n for n, kind in METHODS.items() if n not in PUBLISHED and issubclass(kind, Selector)]
OWN = (Chessboard, HeavyHitters, SmallestKeys, WindowOfQueries, AboveThreshold)  # of each scope
MERGERS = [None, TTM(0.5), TTM(threshold=0.9), TTM(0.3, positions="repacked"), TTM(0.5, combine="average")]


def selectors_for(model, visual=128):
    """Every selector, and the same with other parameters."""
    layer = from_layer_for(model, 2)
    known = {"future": torch.rand(2, visual, generator=torch.Generator().manual_seed(0))}
    found = [
        METHODS[name](prune_ratio=0.7, from_layer=layer, **(known if name == "hindsight" else {}))
        for name in SELECTORS
    ]
    found += [kind(prune_ratio=0.6, from_layer=layer) for kind in OWN]
    return [*found, Dynamic(0.8, layer, reselect_below=2.0), Dynamic(0.5, layer, inactive="evict"), None]


@pytest.fixture
def quiet(model):
    with writing_words(model):
        yield model


def generated(model, inputs, compression, steps=STEPS):
    """The tokens and logits of stock greedy `generate`, with a prefill of its own."""
    settings = dict(do_sample=False, max_new_tokens=steps, return_dict_in_generate=True, output_logits=True)
    with compression(model):
        out = model.generate(**inputs, **settings)
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, 1)


def compose(merger, selector):
    return (Compression() if merger is None else Compression.of(merger)) + (selector or Compression())


def assert_as_generate(model, inputs, merger, selectors):
    shared = SharedPrefill(model, inputs, None if merger is None else Compression.of(merger))
    written = set()
    for selector in selectors:
        tokens, logits = generated(model, inputs, compose(merger, selector))
        assert torch.equal(shared.greedy(selector, STEPS), tokens), selector
        torch.testing.assert_close(shared.forced(selector, tokens).float(), logits, atol=1e-6, rtol=0)
        written.add(tuple(logits[:, -1].flatten().tolist()))
    assert len(written) > len(selectors) / 2  # else it does not matter what is selected
    return shared


@pytest.mark.parametrize("merger", MERGERS, ids=str)
@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_every_selector_writes_what_generate_does(quiet, inputs, merger):
    assert_as_generate(quiet, inputs, merger, selectors_for(quiet))


@pytest.mark.parametrize("merger", [None, TTM(0.6)], ids=str)
def test_every_family_writes_what_generate_does(quiet, inputs, merger):
    layer = from_layer_for(quiet, 2)
    kinds = (LastQuery, SmallestKeys, WindowOfQueries, HeavyHitters)
    selectors = [kind(prune_ratio=0.7, from_layer=layer) for kind in kinds]
    assert_as_generate(quiet, inputs, merger, [Dynamic(0.7, layer, reselect_below=2.0), *selectors, None])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"], indirect=True)
def test_a_forced_answer_has_the_logits_of_stock_steps(quiet, inputs, attention):
    quiet.set_attn_implementation(attention)
    answer = text_of(2, STEPS)  # not what the model would write
    for merger in (None, TTM(0.5)):
        shared = SharedPrefill(quiet, inputs, None if merger is None else Compression.of(merger))
        for selector in (Dynamic(0.7, 2), LastQuery(0.7, 2), SmallestKeys(0.7, 2), None):
            with compose(merger, selector)(quiet), torch.no_grad():
                cache = cache_of(quiet)
                logits = [quiet(**inputs, past_key_values=cache).logits[:, -1]]
                for token in answer.T[:-1]:
                    logits.append(quiet(input_ids=token[:, None], past_key_values=cache).logits[:, -1])
            expected = torch.stack(logits, 1)
            torch.testing.assert_close(shared.forced(selector, answer), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "gemma3"], indirect=True)
def test_prefills_can_take_turns_and_starts_do_not_change_them(quiet, family):
    """Also where the model remembers where the last prompt's positions end."""
    prompts = [["user\n", ("video", frames(n * family.paired, n)), WORDS[: 8 * n]] for n in (8, 4)]
    one, two = (family.inputs(prompt) for prompt in prompts)
    selectors = [Dynamic(0.7, 2, reselect_below=2.0), LastQuery(0.7, 2), None]
    expected = [[generated(quiet, given, compose(None, s))[0] for s in selectors] for given in (one, two)]
    shared = [SharedPrefill(quiet, given) for given in (one, two)]
    for _ in range(2):
        for number, selector in enumerate(selectors):
            for prefill, tokens in zip(shared, expected, strict=True):
                assert torch.equal(prefill.greedy(selector, STEPS), tokens[number])


@pytest.mark.parametrize("merger", [None, TTM(0.6)], ids=str)
def test_an_answers_positions_are_those_of_generate(quiet, family, merger):
    """Also where a video's time reaches beyond the side of its frames, and little text follows it."""
    given = family.inputs(*(["user\n", ("video", frames(20 * family.paired, n)), "then?"] for n in (1, 2)))
    if "second_per_grid_ts" in given:
        given["second_per_grid_ts"] = torch.ones(2)
    assert_as_generate(quiet, given, merger, [Dynamic(0.7, from_layer_for(quiet, 2)), None])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"], indirect=True)
def test_videos_of_different_lengths_share_a_prefill(quiet, family):
    """Of one length of prompt: a shorter video has more text."""
    singles = [
        family.inputs(["user\n", ("video", frames(6 * family.paired, 1)), "then?"]),
        family.inputs(["user\n", ("video", frames(5 * family.paired, 2)), "then?"]),
    ]
    missing = singles[0]["input_ids"].shape[1] - singles[1]["input_ids"].shape[1]
    for name, part in singles[1].items():
        if name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            fill = {"input_ids": 40, "attention_mask": 1}.get(name, 0)
            singles[1][name] = torch.nn.functional.pad(part, (0, missing), value=fill)
    given = together(family, singles)
    assert given["attention_mask"].all()
    selectors = [kind(prune_ratio=0.7, from_layer=2) for kind in (Dynamic, LastQuery, AboveThreshold)]
    shared = assert_as_generate(quiet, given, TTM(0.5), selectors)
    assert len(set(shared.retained.sum(1).tolist())) == 2


def test_what_merging_retained_is_known(tiny):
    given = inputs_of(batch=2)
    assert SharedPrefill(tiny, given).retained.all()
    merged = SharedPrefill(tiny, given, Compression.of(TTM(0.5))).retained
    assert merged.shape == (2, 128) and merged.sum(1).tolist() == [2 * 16 + 6 * 8] * 2


def test_observers_are_entered_while_a_start_decodes(tiny):
    steps = []

    @contextmanager
    def counting():
        hook = tiny.register_forward_hook(lambda *_: steps.append(1))
        yield
        hook.remove()

    shared = SharedPrefill(tiny, inputs_of())
    shared.greedy(LastQuery(0.5, 2), 4, counting())
    assert len(steps) == 3
    shared.greedy(LastQuery(0.5, 2), 4)
    assert len(steps) == 3


def hooks(model):
    return [
        len(getattr(module, name))
        for module in model.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks")
    ]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"], indirect=True)
def test_the_model_is_afterwards_as_before(model, inputs):
    tokens, logits = generated(model, inputs, Compression())
    before, kernel, written = hooks(model), model.config._attn_implementation, model.__dict__.keys()
    with pytest.raises(ValueError, match="holds no video"):
        SharedPrefill(model, {"input_ids": text_of(1, 9)})
    assert hooks(model) == before and active_session(model) is None
    shared = SharedPrefill(model, inputs, Compression.of(TTM(0.5)))
    shared.greedy(Dynamic(0.7, 2), 3)
    with pytest.raises(RuntimeError), shared.start(Dynamic(0.7, 2)):
        raise RuntimeError
    assert hooks(model) == before and active_session(model) is None
    assert model.config._attn_implementation == kernel and model.__dict__.keys() == written
    again, same = generated(model, inputs, Compression())
    assert torch.equal(again, tokens) and torch.equal(same, logits)


def test_what_cannot_share_a_prefill_is_named(tiny):
    given = inputs_of()
    for wrong in (LastQuery(0.5, 2), DyCoke(0.5, 0.5, 2), FastV(0.5, 2)):
        with pytest.raises(ValueError, match=r"merging=.* must have a merger only"):
            SharedPrefill(tiny, given, Compression.of(wrong))
    with pytest.raises(ValueError, match="inputs holds no video"):
        SharedPrefill(tiny, {"input_ids": text_of(1, 9)})
    with pytest.raises(ValueError, match="inputs holds no video"):
        SharedPrefill(tiny, {"input_ids": text_of(1, 9)}, Compression.of(TTM(0.5)))
    padded = FAMILIES["llava_onevision"].inputs(
        ["user\n", ("video", frames(8)), "then?"], ["user\n", ("video", frames(8)), WORDS]
    )
    with pytest.raises(ValueError, match="attention_mask has padding"):
        SharedPrefill(tiny, padded)
    with pytest.raises(ValueError, match="from_layer=9"):
        SharedPrefill(tiny, given).greedy(LastQuery(0.5, 9), 3)


class LongWindow(WindowOfQueries):
    """Looks at more queries than are kept of a shared prefill."""

    window: ClassVar[int] = 100


@pytest.mark.parametrize(
    ("wrong", "named"), [(FastV(0.5, 2), "FastV"), (TTM(0.5), "TTM"), (LongWindow(0.5, 2), "window")]
)
def test_a_start_refuses_what_the_prefill_was_not_kept_for(tiny, wrong, named):
    """What acts inside the prefill, or looks at more of it than was kept."""
    shared = SharedPrefill(tiny, inputs_of())
    with pytest.raises(ValueError, match=named):
        shared.greedy(wrong, 3)
    assert active_session(tiny) is None
