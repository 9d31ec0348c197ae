"""Capture agrees with eager attention weights, keeps to one generation, and leaves stock caches behind."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.matrix import generate, turn_of
from helpers.tiny import PRUNING, cache_of, inputs_of, text_of, write
from transformers.cache_utils import DynamicLayer, StaticCache

from dycoke_lab import capture_attention
from dycoke_lab.methods import Compression
from dycoke_lab.models import adapter_for
from dycoke_lab.runtime.cache_layers import InPlaceLayer


def test_capture_agrees_with_eager_output_attentions(family, model, inputs):
    model.set_attn_implementation("eager")
    settings = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    with capture_attention(model, heads="all") as trace:
        out = model.generate(**inputs, **settings, output_attentions=True)
        assert len(trace) == len(out.attentions) == 4
    length = inputs["input_ids"].shape[1]
    assert next(iter(trace.videos))[0].tokens == 128
    columns = adapter_for(model).find_videos(model.config, inputs).columns
    for step, layers in enumerate(out.attentions):
        for number, weights in enumerate(layers):
            gone = length + step - weights.shape[3]  # what a sliding window has left behind
            for b in range(2):
                where = columns[b] - gone
                expected = torch.where(where >= 0, weights[b, :, -1, where.clamp(min=0)], 0.0).double()
                found = trace.attention[step][number, :, b].double()
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("compression", [Compression(), PRUNING], ids=["stock", "pruned"])
def test_a_trace_is_of_one_generation(tiny, compression):
    """A call without a video is none of its steps, nor a later turn on another cache; one on its own is."""
    one, two = inputs_of(8, 0), inputs_of(4, 1)
    text = text_of(1, 300)
    with compression(tiny), capture_attention(tiny) as trace:
        _, first = write(tiny, one)
        _, second = write(tiny, two)
        attention = trace.stack(3)
        for length in (20, 300):
            write(tiny, turn_of(text[:, :length]))
        with torch.no_grad():
            tiny(input_ids=text[:, :1], past_key_values=first)
        assert torch.equal(trace.stack(3), attention)
        with torch.no_grad():
            tiny(input_ids=text[:, :1], past_key_values=second)
        assert len(trace) == len(attention) + 1 and torch.equal(trace.stack(3)[:-1], attention)


def test_a_video_after_a_turn_of_text_is_found_where_it_stands(tiny):
    video = inputs_of()
    text = text_of(1, 7)
    with capture_attention(tiny) as trace, torch.no_grad():
        cache = cache_of(tiny)
        tiny(input_ids=text, past_key_values=cache)
        tiny(**{**video, "attention_mask": None}, past_key_values=cache)
    whole = {**video, "input_ids": torch.cat([text, video["input_ids"]], 1), "attention_mask": None}
    with capture_attention(tiny) as expected, torch.no_grad():
        tiny(**whole, past_key_values=cache_of(tiny))
    torch.testing.assert_close(trace.stack(2), expected.stack(2), atol=1e-9, rtol=0)


def test_a_static_cache_is_captured_where_its_columns_are(tiny):
    given, ids = inputs_of(), text_of(1, 3)
    traces = []
    for cache in (cache_of(tiny), StaticCache(tiny.config.get_text_config(), max_cache_len=400)):
        with capture_attention(tiny) as trace, torch.no_grad():
            tiny(**given, past_key_values=cache)
            for one in ids.T:
                tiny(input_ids=one[None], past_key_values=cache)
        traces.append(trace.stack(3))
    assert len(traces[0]) == 4
    torch.testing.assert_close(traces[1], traces[0], atol=1e-9, rtol=0)


def test_a_trace_holds_no_graph(tiny):
    with capture_attention(tiny) as trace, torch.enable_grad():
        tiny(**inputs_of(), past_key_values=cache_of(tiny))
    assert not trace.attention[0].requires_grad and len(trace.to_frame())


def test_capture_leaves_a_stock_cache_that_can_be_copied_shortened_and_used_again(family, model, prompts):
    inputs = family.inputs(prompts[0])
    sequences, _, stock = generate(model, inputs, 8)
    kinds = [type(layer) for layer in stock.layers]
    with capture_attention(model):
        assert torch.equal(generate(model, inputs, 8, prompt_lookup_num_tokens=2)[0], sequences)
        written, _, cache = generate(model, inputs, 8)
        assert any(type(layer) is InPlaceLayer for layer in cache.layers)
        used, unused = copy.deepcopy(cache), copy.deepcopy(cache)
        turn = turn_of(torch.cat([written, written[:, -2:]], 1))
        captured = generate(model, turn, 3, past_key_values=used)[1]
    assert torch.equal(written, sequences)
    for one in (cache, used, unused):
        assert [type(layer) for layer in one.layers] == kinds
        for layer in one.layers:
            if type(layer) is DynamicLayer:  # without room for more
                assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * layer.keys.element_size()
    for layer, other in zip(cache.layers, stock.layers, strict=True):
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)
    assert torch.equal(captured, generate(model, turn, 3, past_key_values=stock)[1])


def test_capture_leaves_gradients_as_they_are(tiny):
    inputs, ids = inputs_of(), torch.tensor([[60]])

    def gradient():
        cache = cache_of(tiny)
        with torch.no_grad():
            tiny(**inputs, past_key_values=cache)
            tiny(input_ids=ids, past_key_values=cache)
        tiny(input_ids=ids, past_key_values=cache)
        out = tiny(input_ids=ids, past_key_values=cache).logits.sum()
        return torch.autograd.grad(out, tiny.lm_head.weight)[0]

    with capture_attention(tiny):
        captured = gradient()
    assert torch.equal(captured, gradient())
