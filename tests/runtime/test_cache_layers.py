"""What caches hold: how many keys and values each layer stores and reads, and what is written in place."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.matrix import SETTINGS, STEPS, generate, mixed_prompts, together, turn_of
from helpers.slow_methods import seams_of
from transformers.cache_utils import DynamicCache, DynamicLayer

from dycoke_lab import TTM, capture_attention
from dycoke_lab.methods import DyCoke, Dynamic, FirstStep
from dycoke_lab.runtime.cache_layers import InPlaceLayer
from dycoke_lab.runtime.compressed_cache import cache_bytes, stock_layers, write_in_place


@pytest.mark.parametrize(
    "compression", [*SETTINGS, DyCoke(0.5, 0.6, from_layer=2, inactive="evict")], ids=str
)
def test_kv_lengths_and_bytes_are_as_predicted_in_every_layer(family, model, prompts, compression):
    merger, _, selector = seams_of(compression)
    inputs = family.inputs(prompts[0])
    with compression(model), capture_attention(model) as trace:
        _, _, cache = generate(model, inputs)
        read = [layer.keys.shape[2] for layer in cache.layers]
        a_column = [2 * layer.keys[:, :, 0].numel() * layer.keys.element_size() for layer in cache.layers]
        held = [
            layer.held_bytes() if hasattr(layer, "held_bytes") else n * a
            for layer, n, a in zip(cache.layers, read, a_column, strict=True)
        ]
        assert cache_bytes(cache) == (sum(held), sum(n * a for n, a in zip(read, a_column, strict=True)))
    prompt = inputs["input_ids"].shape[1]
    left = int(trace.kept(1 if family.name == "gemma3" else 0)[-1].sum())
    if merger.threshold is None:
        assert left == 128 - 6 * (16 - int((1 - merger.merge_ratio) * 16 + 0.5))
    rest = prompt - 128 + STEPS - 1
    for number in range(4):
        if family.name == "gemma3" and number % 2 == 0:
            assert read[number] == held[number] // a_column[number] == 39  # the window, less the next token
            continue
        stored = active = left
        if selector is not None and number >= 2:
            active = max(1, int((1 - selector.prune_ratio) * left + 0.5))
            stored = active if selector.evicts else left
        assert read[number] == rest + active
        assert held[number] == a_column[number] * (rest + stored)


@pytest.mark.parametrize("merger", [TTM(0.5), TTM(threshold=0.9)], ids=str)
def test_where_inactive_tokens_are_changes_nothing_but_their_return(family, model, merger):
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    logits = {}
    for inactive in ("device", "offload", "evict"):
        with (merger + Dynamic(0.6, from_layer=2, reselect_below=0.99, inactive=inactive))(model):
            logits[inactive] = generate(model, inputs, 10)[1]
    with (merger + FirstStep(0.6, from_layer=2))(model):
        logits["first step"] = generate(model, inputs, 10)[1]
    torch.testing.assert_close(logits["offload"], logits["device"], atol=1e-6, rtol=0)
    torch.testing.assert_close(logits["evict"], logits["first step"], atol=1e-6, rtol=0)
    assert not torch.allclose(
        logits["evict"], logits["device"], atol=1e-3
    )  # else nothing returned in this test


def test_a_layer_in_place_goes_back_and_begins_anew_as_stocks():
    layer, stock = DynamicLayer(), DynamicLayer()
    states = torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 4)
    layer.update(*states), stock.update(*states)
    layer = InPlaceLayer(layer)
    for change in (
        lambda it: it.crop(-3),
        lambda it: it.update(*states),
        lambda it: it.batch_repeat_interleave(2),
        lambda it: it.crop(0),
        lambda it: it.batch_select_indices(torch.tensor([3, 0])),
    ):
        change(layer), change(stock)
        assert torch.equal(layer.keys, stock.keys) and torch.equal(layer.values, stock.values)
        assert layer.get_seq_length() == stock.get_seq_length()
    with pytest.raises(ValueError, match="tokens_to_remove=3 must be negative"):
        layer.crop(3)
    for batch in (2, 1):
        layer.reset()
        assert layer.get_seq_length() == 0
        keys, values = layer.update(states[0][:batch], states[1][:batch])
        assert torch.equal(keys, states[0][:batch]) and torch.equal(values, states[1][:batch])
    layer.reset()
    assert not layer.stock().is_initialized  # as stock's own after a reset


def test_only_what_can_be_one_buffer_is_written_in_place():
    keys, values = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 3)
    cache = DynamicCache()
    cache.update(keys, keys, 0), cache.update(keys, values, 1), cache.update(keys.requires_grad_(), keys, 2)
    assert write_in_place(cache) == [0]


@pytest.mark.parametrize("numbers", [None, [0, 3]], ids=str)
def test_writing_a_stock_models_cache_in_place_changes_no_bit(family, model, inputs, numbers):
    """And it can be undone. Layers with a sliding window stay as they are."""
    sequences, _, expected = generate(model, inputs, 3)
    turn = turn_of(torch.cat([sequences, sequences[:, -2:]], 1))
    turn["attention_mask"][:, : inputs["input_ids"].shape[1]] = inputs["attention_mask"]
    cache = copy.deepcopy(expected)
    windowed = {0, 2} if family.name == "gemma3" else set()
    assert write_in_place(cache, numbers) == [n for n in numbers or range(4) if n not in windowed]
    found = generate(model, turn, 3, past_key_values=cache)
    wanted = generate(model, turn, 3, past_key_values=expected)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    assert any(type(layer) is InPlaceLayer for layer in cache.layers)
    stock_layers(cache)
    for layer, other in zip(cache.layers, expected.layers, strict=True):
        assert type(layer) is type(other)
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)
