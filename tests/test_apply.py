"""Off means identical, and nothing is left behind: not after the context, an exception, or Ctrl-C."""

from __future__ import annotations

import pytest
import torch
from conftest import inputs_for
from test_methods import generate

from dycoke_lab import DyCoke, DyCokeConfig, capture_attention
from dycoke_lab.attention import _WATCHERS
from dycoke_lab.specimen.tasks import make_task


def hooks_on(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(params=["sdpa", "eager"])
def attention(request, model):
    model.set_attn_implementation(request.param)
    return request.param


@pytest.fixture
def stock(model, inputs, attention):
    return *generate(model, inputs)[:2], hooks_on(model)  # transformers itself leaves a few hooks


def assert_stock(model, inputs, stock, attention):
    sequences, logits, _ = generate(model, inputs)
    assert torch.equal(sequences, stock[0])
    assert torch.equal(logits, stock[1])
    assert hooks_on(model) == stock[2]
    assert len(_WATCHERS) == 0
    assert model.model.language_model.config._attn_implementation == attention


def test_nothing_merged_and_nothing_pruned_is_bit_identical(model, inputs, stock, attention):
    with DyCoke(merge_ratio=0, prune_ratio=0)(model):
        sequences, logits, _ = generate(model, inputs)
    assert torch.equal(logits, stock[1]) and torch.equal(sequences, stock[0])
    assert_stock(model, inputs, stock, attention)


@pytest.mark.parametrize("heads", ["mean", "all"])
def test_capture_changes_no_bit(model, inputs, stock, attention, heads):
    with capture_attention(model, heads) as trace:
        _, logits, _ = generate(model, inputs)
    assert torch.equal(logits, stock[1])
    assert trace.attention[0].shape == (4, 1 if heads == "mean" else 4, 2, 128)
    with DyCoke()(model):
        pruned = generate(model, inputs)[1]
        with capture_attention(model, heads):
            assert torch.equal(generate(model, inputs)[1], pruned)
    assert_stock(model, inputs, stock, attention)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_inside_leaves_the_stock_model(model, inputs, stock, attention, error):
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:
            raise error

    hook = model.model.language_model.layers[3].register_forward_hook(stop)
    with pytest.raises(error), DyCoke()(model), capture_attention(model):
        generate(model, inputs)
    hook.remove()
    assert_stock(model, inputs, stock, attention)


def test_two_generations_share_no_state(model, inputs, attention):
    other = make_task("describe", 2, 3)
    longer = inputs_for(model, other)
    with DyCoke()(model):
        first = generate(model, inputs)[1]
        generate(model, longer)
        assert torch.equal(generate(model, inputs)[1], first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(prune_ratio=1.0), "prune_ratio=1.0 must be at least 0 and below 1"),
        (dict(score_layer=0), "score_layer=0 must be a whole number from 1"),
        (dict(gate=3), "gate=3 must lie between"),
        (dict(positions="new"), "positions='new' must be"),
        (dict(method="best"), "method='best' must be one of dynamic"),
        (dict(merge_threshold=7), "threshold=7 is a cosine"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DyCokeConfig(**settings)


def test_what_cannot_work_is_refused_before_any_token(model, inputs):
    with pytest.raises(ValueError, match="score_layer=4 must be below the model's 4"), DyCoke(score_layer=4)(model):
        pass
    with pytest.raises(ValueError, match="use_cache=True"), DyCoke()(model), torch.no_grad():
        model(**inputs, use_cache=False)
    with pytest.raises(RuntimeError, match="inside a DyCoke context already"), DyCoke()(model), DyCoke()(model):
        pass
    with pytest.raises(TypeError, match="has no adapter here; supported: llava_onevision"), DyCoke()(torch.nn.Linear(2, 2)):
        pass
    with pytest.raises(ValueError, match="heads='max' must be 'mean' or 'all'"), capture_attention(model, "max"):
        pass
