"""Steps of static shapes write the same tokens as ordinary ones; a CPU runs them without a graph."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from helpers.families import FAMILIES, frames
from transformers.cache_utils import DynamicCache

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.bench.cuda_graph import StaticSteps
from dycoke_lab.methods import TTM, DyCoke, Dynamic, FastV, LastQuery, ReferenceCode
from dycoke_lab.runtime import kv_swap, selection
from dycoke_lab.runtime.session import generation_of

COMPRESSIONS = [
    None,
    TTM(0.5),
    DyCoke(0.5, 0.6, from_layer=2, reselect_below=0.97),
    Dynamic(0.6, from_layer=2, reselect_below=2.0),
    DyCoke(None, 0.6, 2, threshold=0.9, positions="repacked", reselect_below=2.0),
    LastQuery(0.6, from_layer=2),
    FastV(0.6, from_layer=2),
    DyCoke(0.5, 0.6, from_layer=2, inactive="evict"),
]
TOKENS = torch.arange(60, 74).view(-1, 1, 1)


@pytest.fixture
def onevision():
    """One family and its model, for what is the same for all."""
    model = FAMILIES["llava_onevision"].model()
    model.set_attn_implementation("sdpa")
    return FAMILIES["llava_onevision"], model


def prompt_of(family):
    return family.inputs(["user\n", ("video", frames(8 * family.paired, 1)), "then?"])


def cache_for(model):
    return DynamicCache(config=model.config.get_text_config())


def logits(model, inputs, static):
    """Logits of twelve steps: three of the model, six static ones if `static`, and three of the model
    again.
    """
    cache, length = cache_for(model), inputs["input_ids"].shape[1]
    found = []
    with torch.no_grad():
        model(**inputs, past_key_values=cache)

        def ordinary(number):
            position = torch.tensor([[length + number]])
            out = model(input_ids=TOKENS[number], position_ids=position, past_key_values=cache)
            found.append(out.logits[:, -1:].clone())

        for number in range(3):
            ordinary(number)
        if static:
            with StaticSteps(model, cache, torch.tensor([[length + 3]]), 8) as step:
                for number in range(3, 9):
                    found.append(step(TOKENS[number]).clone())
        else:
            for number in range(3, 9):
                ordinary(number)
        for number in range(9, 12):
            ordinary(number)
        generation = generation_of(model, cache)
        selected = [s.selected.clone() for s in generation.selections] if generation else []
    return torch.cat(found, 1), selected, cache


@pytest.mark.parametrize("free", [True, False], ids=["cpu", "as a gpu"])
@pytest.mark.parametrize("compression", COMPRESSIONS, ids=repr)
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"], indirect=True)
def test_static_steps_equal_ordinary_ones(family, model, compression, free, monkeypatch):
    for module in (kv_swap, selection):
        monkeypatch.setattr(module, "reads_are_free", lambda device: free)
    model.set_attn_implementation("sdpa")
    with nullcontext() if compression is None else compression(model):
        results = [logits(model, prompt_of(family), static) for static in (False, True)]
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-5, rtol=0)
    for mine, stock in zip(results[1][1], results[0][1], strict=True):
        assert torch.equal(mine, stock)
    for mine, stock in zip(results[1][2].layers, results[0][2].layers, strict=True):
        torch.testing.assert_close(mine.keys.sort(2).values, stock.keys.sort(2).values, atol=1e-5, rtol=0)
        assert mine.get_seq_length() == stock.get_seq_length()


def test_static_step_leaves_its_state_in_the_same_memory(family, model):
    """A replay of a graph reads and writes the memory that was there when it was recorded."""
    model.set_attn_implementation("sdpa")
    inputs = prompt_of(family)
    with Dynamic(0.6, from_layer=2, reselect_below=2.0)(model), torch.no_grad():
        cache = cache_for(model)
        model(**inputs, past_key_values=cache)
        model(input_ids=TOKENS[0], past_key_values=cache)
        (now,) = generation_of(model, cache).selections
        position = torch.tensor([[inputs["input_ids"].shape[1] + 1]])
        if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or []):
            with pytest.raises(ValueError, match="cannot keep its size"):
                StaticSteps(model, cache, position, 4)
            return
        with StaticSteps(model, cache, position, 4) as step:

            def memory():
                state = [
                    now.scores,
                    now.selected,
                    now.order,
                    now.active[0],
                    step.position,
                    *step.masks.values(),
                ]
                return [part.data_ptr() for part in [*state, *(layer.keys for layer in cache.layers)]]

            before, scores = memory(), now.scores.clone()
            for number in range(1, 5):
                step(TOKENS[number])
            assert memory() == before and not torch.equal(now.scores, scores)
            with pytest.raises(ValueError, match="count=4 steps are done"):
                step(TOKENS[5])


def test_static_steps_carry_a_methods_memory(onevision):
    family, model = onevision

    class Summed(Dynamic):
        """Select by the sum of all attention so far."""

        def select(self, step):
            step.memory["sum"] = step.memory.get("sum", 0) + step.scores
            return super().select(step)

    with Summed(0.6, from_layer=2, reselect_below=2.0)(model):
        results = [logits(model, prompt_of(family), static) for static in (False, True)]
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-5, rtol=0)


def begin(family, model, compression, steps=1):
    cache, inputs = cache_for(model), prompt_of(family)
    with compression(model), torch.no_grad():
        model(**inputs, past_key_values=cache)
        for number in range(steps):
            model(input_ids=TOKENS[number], past_key_values=cache)
        return StaticSteps(model, cache, torch.tensor([[inputs["input_ids"].shape[1] + steps]]), 4)


@pytest.mark.parametrize(
    ("message", "compression", "steps"),
    [
        ("nothing has been selected", Dynamic(0.7, from_layer=1), 0),
        ("inactive='offload'", Dynamic(0.7, from_layer=1, inactive="offload"), 1),
        ("different numbers", ReferenceCode(0.7, from_layer=1), 1),
    ],
)
def test_static_steps_refuse_what_has_no_static_shape(onevision, message, compression, steps):
    with pytest.raises(ValueError, match=message):
        begin(*onevision, compression, steps)


def test_static_steps_refuse_a_choice_for_each_layer(onevision):
    class EachLayer(LastQuery):
        scope = "layer"

    with pytest.raises(ValueError, match="chooses for each layer"):
        begin(*onevision, EachLayer(0.7, from_layer=1))


def test_static_steps_refuse_padding(onevision):
    family, model = onevision
    video = ("video", frames(8, 1))
    inputs, cache = (
        family.inputs(["user\n", video, "then?"], ["user\n", video, "what happens then?"]),
        cache_for(model),
    )
    with TTM(0.5)(model), torch.no_grad():
        model(**inputs, past_key_values=cache)
        with pytest.raises(ValueError, match="has padding"):
            StaticSteps(model, cache, torch.tensor([[9], [9]]), 4)


def test_static_steps_refuse_another_kernel(onevision):
    family, model = onevision
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="support only 'sdpa'"):
        begin(family, model, Dynamic(0.7, from_layer=1))


def test_static_steps_and_capture_refuse_each_other(onevision):
    family, model = onevision
    with capture_attention(model), pytest.raises(ValueError, match="capture_attention observes this model"):
        begin(family, model, Dynamic(0.7, from_layer=1))
    cache, inputs = cache_for(model), prompt_of(family)
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        position = torch.tensor([[inputs["input_ids"].shape[1]]])
        with StaticSteps(model, cache, position, 4) as step:
            with (
                pytest.raises(ValueError, match="capture_attention cannot observe StaticSteps"),
                capture_attention(model),
            ):
                step(TOKENS[0])
            assert step(TOKENS[0]).isfinite().all()  # once it has ended
