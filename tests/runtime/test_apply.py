"""Off means identical, and nothing is left behind: not after the context, an exception, or Ctrl-C."""

from __future__ import annotations

import pytest
import torch
from helpers.families import decoder_of, frames
from helpers.matrix import SETTINGS, STEPS, generate, mixed_prompts, together
from transformers.cache_utils import DynamicLayer

from dycoke_lab import TTM, DyCoke, capture_attention
from dycoke_lab.methods import Compression, FastV
from dycoke_lab.runtime import attention_hooks

OFF = [Compression(), DyCoke(0, 0), TTM(0) + FastV(0)]


def defaults_for(family):
    """The defaults, as far as the family can have them."""
    return DyCoke(from_layer=2) if family.name == "gemma3" else DyCoke()


def hooks_on(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(params=["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def attention(request, model):
    model.set_attn_implementation(request.param)
    return request.param


@pytest.fixture(scope="module")
def stocks():
    return {}


@pytest.fixture
def stock(family, model, inputs, attention, stocks):
    """What the unmodified model writes; and its hooks, of which transformers itself leaves a few."""
    if (family.name, attention) not in stocks:
        stocks[family.name, attention] = *generate(model, inputs)[:2], hooks_on(model)
    return stocks[family.name, attention]


def assert_stock(model, inputs, stock, attention):
    sequences, logits, cache = generate(model, inputs)
    assert torch.equal(sequences, stock[0])
    assert torch.equal(logits, stock[1])
    assert hooks_on(model) == stock[2]
    assert len(attention_hooks._LAYERS) == len(attention_hooks._CONFIGS) == 0
    assert decoder_of(model).config._attn_implementation == attention
    assert type(cache).__name__ == "DynamicCache"


@pytest.mark.parametrize("nothing", OFF, ids=str)
def test_nothing_merged_and_nothing_pruned_is_bit_identical(model, inputs, stock, attention, nothing):
    assert nothing.off
    with nothing(model):
        sequences, logits, _ = generate(model, inputs)
    assert torch.equal(logits, stock[1]) and torch.equal(sequences, stock[0])
    assert_stock(model, inputs, stock, attention)


def test_off_is_bit_identical_in_a_padded_batch(family, model):
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    stock = generate(model, inputs)[1]
    with DyCoke(merge_ratio=0, prune_ratio=0)(model), capture_attention(model):
        assert torch.equal(generate(model, inputs)[1], stock)


@pytest.mark.parametrize("heads", ["mean", "all"])
def test_capture_changes_no_bit(family, model, inputs, stock, attention, heads):
    with capture_attention(model, heads) as trace:
        _, logits, _ = generate(model, inputs)
    assert torch.equal(logits, stock[1])
    assert trace.attention[0].shape == (4, 1 if heads == "mean" else 4, 2, 128)
    with defaults_for(family)(model):
        pruned = generate(model, inputs)[1]
        with capture_attention(model, heads):
            assert torch.equal(generate(model, inputs)[1], pruned)
    assert_stock(model, inputs, stock, attention)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_inside_leaves_the_stock_model(family, model, inputs, stock, attention, error):
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:
            raise error

    hook = decoder_of(model).layers[3].register_forward_hook(stop)
    with pytest.raises(error), defaults_for(family)(model), capture_attention(model):
        generate(model, inputs)
    hook.remove()
    assert_stock(model, inputs, stock, attention)


def test_two_generations_share_no_state(family, model, inputs, attention):
    other = family.inputs(["user\n", ("video", frames(6 * family.paired, 5)), "then?"])
    with defaults_for(family)(model):
        first = generate(model, inputs)[1]
        generate(model, other)
        assert torch.equal(generate(model, inputs)[1], first)


def test_the_context_gives_the_model_that_it_compresses(model):
    with TTM(0.5)(model) as inside:
        assert inside is model


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("compression", [TTM(0.5), FastV(0.5, from_layer=2)], ids=str)
def test_a_cache_without_inactive_tokens_has_stock_layers_afterwards(model, prompts, family, compression):
    with compression(model):
        cache = generate(model, family.inputs(prompts[0]))[2]
        assert {type(layer).__name__ for layer in cache.layers} == {"InPlaceLayer"}
    for layer in cache.layers:
        assert type(layer) is DynamicLayer
        assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * layer.keys.element_size()


def test_bfloat16_on_a_cpu(family, prompts):
    model = family.model().to(torch.bfloat16)
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in family.inputs(*prompts).items()}
    stock = generate(model, inputs)[1]
    with DyCoke(merge_ratio=0, prune_ratio=0)(model):
        assert torch.equal(generate(model, inputs)[1], stock)
    with SETTINGS[0](model), capture_attention(model) as trace:
        logits = generate(model, inputs)[1]
    assert torch.isfinite(logits).all() and len(trace) == STEPS
    assert trace.kept(3)[1:].sum(1).tolist() == [int(0.4 * 80 + 0.5)] * (STEPS - 1)
