"""Steps of static shapes write the same words as stock's; a CPU runs them without a graph."""

from __future__ import annotations

import pytest
import torch
from families import frames
from test_generate import config_for
from transformers.cache_utils import DynamicCache

from dycoke_lab import DyCoke, capture_attention, prune
from dycoke_lab.apply import generation_of
from dycoke_lab.graph import StaticSteps

SETTINGS = [
    None, dict(merge_ratio=0.5, prune_ratio=0.0), dict(merge_ratio=0.5, prune_ratio=0.6, gate=0.97),
    dict(prune_ratio=0.6, gate=2.0), dict(prune_ratio=0.6, gate=2.0, positions="repacked", merge_threshold=0.9),
    dict(prune_ratio=0.6, method="last_query"),
    dict(prune_ratio=0.6, method="fastv"), dict(merge_ratio=0.5, prune_ratio=0.6, waiting="nowhere"),
]  # fmt: skip
WORDS = torch.arange(60, 74).view(-1, 1, 1)


def logits(model, inputs, static):
    """Of twelve words: some by the model, six by static steps if `static`, and some by the model again."""
    cache = DynamicCache(config=model.config.get_text_config())
    length = inputs["input_ids"].shape[1]
    found = []
    with torch.no_grad():
        model(**inputs, past_key_values=cache)

        def ordinary(number):
            place = torch.tensor([[length + number]])
            found.append(model(input_ids=WORDS[number], position_ids=place, past_key_values=cache).logits[:, -1:].clone())

        for number in range(3):
            ordinary(number)
        if static:
            with StaticSteps(model, cache, torch.tensor([[length + 3]]), 8) as step:
                for number in range(3, 9):
                    found.append(step(WORDS[number]).clone())
        else:
            for number in range(3, 9):
                ordinary(number)
        for number in range(9, 12):
            ordinary(number)
        now = generation_of(model, cache)
        selected = None if now is None or now.selected is None else now.selected.clone()
    return torch.cat(found, 1), selected, cache


@pytest.mark.parametrize("looking", [True, False], ids=["cpu", "as a gpu"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"], indirect=True)
def test_static_steps_equal_ordinary_ones(family, model, settings, looking, monkeypatch):
    monkeypatch.setattr(prune, "free_to_look", lambda device: looking)
    model.set_attn_implementation("sdpa")
    inputs = family.inputs(["user\n", ("video", frames(8, 1)), "then?"])
    if settings is None:
        results = [logits(model, inputs, static) for static in (False, True)]
    else:
        with config_for(family, settings)(model):
            results = [logits(model, inputs, static) for static in (False, True)]
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-5, rtol=0)
    assert results[0][1] is None or torch.equal(results[0][1], results[1][1])
    for mine, stock in zip(results[1][2].layers, results[0][2].layers, strict=True):
        torch.testing.assert_close(mine.keys.sort(2).values, stock.keys.sort(2).values, atol=1e-5, rtol=0)
        assert mine.get_seq_length() == stock.get_seq_length()


def test_a_step_leaves_its_state_where_it_was(family, model):
    """A replay of a graph reads and writes the memory that was there when it was captured."""
    model.set_attn_implementation("sdpa")
    inputs = family.inputs(["user\n", ("video", frames(8 * family.paired, 1)), "then?"])
    with config_for(family, dict(prune_ratio=0.6, gate=2.0))(model), torch.no_grad():
        cache = DynamicCache(config=model.config.get_text_config())
        model(**inputs, past_key_values=cache)
        model(input_ids=WORDS[0], past_key_values=cache)
        now = generation_of(model, cache)
        place = torch.tensor([[inputs["input_ids"].shape[1] + 1]])
        if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or []):
            with pytest.raises(ValueError, match="cannot hold still"):
                StaticSteps(model, cache, place, 4)
            return
        with StaticSteps(model, cache, place, 4) as step:

            def memory():
                state = [now.scores, now.selected, now.order, now.active[0], step.position, *step.masks.values()]
                return [part.data_ptr() for part in [*state, *(layer.keys for layer in cache.layers)]]

            before, scores = memory(), now.scores.clone()
            for number in range(1, 5):
                step(WORDS[number])
            assert memory() == before and not torch.equal(now.scores, scores)
            with pytest.raises(ValueError, match="count=4 steps are done"):
                step(WORDS[5])


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_what_has_no_static_shape_is_refused(family, model, prompts):
    model.set_attn_implementation("sdpa")
    inputs = family.inputs(["user\n", ("video", frames(8, 1)), "then?"])

    def begin(steps=1, **settings):
        cache = DynamicCache(config=model.config.get_text_config())
        with DyCoke(score_layer=1, **settings)(model), torch.no_grad():
            model(**inputs, past_key_values=cache)
            for number in range(steps):
                model(input_ids=WORDS[number], past_key_values=cache)
            return StaticSteps(model, cache, torch.tensor([[inputs["input_ids"].shape[1] + steps]]), 4)

    for wrong, settings in (
        ("nothing has been selected", dict(steps=0)), ("waiting='host'", dict(waiting="host")),
        ("different numbers", dict(method="keep_none")),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=wrong):
            begin(**settings)
    with capture_attention(model), pytest.raises(ValueError, match="someone looks on"):
        begin()
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        with (
            StaticSteps(model, cache, torch.tensor([[inputs["input_ids"].shape[1]]]), 4) as step,
            pytest.raises(ValueError, match="capture_attention cannot look at StaticSteps"),
            capture_attention(model),
        ):
            step(WORDS[0])
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="only 'sdpa'"):
        begin()
