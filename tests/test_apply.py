"""Off means identical, and nothing is left behind: not after the context, an exception, or Ctrl-C."""

from __future__ import annotations

import pytest
import torch
from families import decoder_of, frames
from test_methods import generate

from dycoke_lab import DyCoke, DyCokeConfig, capture_attention
from dycoke_lab.attention import _CONFIGS, _LAYERS
from dycoke_lab.compat import CACHE
from dycoke_lab.methods import Dynamic
from dycoke_lab.models import HOW_TO
from dycoke_lab.provenance import ROOT


def settings_of(family):
    """The defaults, as far as the family can have them."""
    return {"score_layer": 2} if family.name == "gemma3" else {}


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
    assert len(_LAYERS) == len(_CONFIGS) == 0
    assert decoder_of(model).config._attn_implementation == attention


def test_nothing_merged_and_nothing_pruned_is_bit_identical(model, inputs, stock, attention):
    with DyCoke(merge_ratio=0, prune_ratio=0)(model):
        sequences, logits, _ = generate(model, inputs)
    assert torch.equal(logits, stock[1]) and torch.equal(sequences, stock[0])
    assert_stock(model, inputs, stock, attention)


@pytest.mark.parametrize("heads", ["mean", "all"])
def test_capture_changes_no_bit(family, model, inputs, stock, attention, heads):
    with capture_attention(model, heads) as trace:
        _, logits, _ = generate(model, inputs)
    assert torch.equal(logits, stock[1])
    assert trace.attention[0].shape == (4, 1 if heads == "mean" else 4, 2, 128)
    with DyCoke(**settings_of(family))(model):
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
    with pytest.raises(error), DyCoke(**settings_of(family))(model), capture_attention(model):
        generate(model, inputs)
    hook.remove()
    assert_stock(model, inputs, stock, attention)


def test_two_generations_share_no_state(family, model, inputs, attention):
    other = family.inputs(["user\n", ("video", frames(6 * family.paired, 5)), "then?"])
    with DyCoke(**settings_of(family))(model):
        first = generate(model, inputs)[1]
        generate(model, other)
        assert torch.equal(generate(model, inputs)[1], first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(prune_ratio=1.0), "prune_ratio=1.0 must be at least 0 and below 1"),
        (dict(score_layer=0), "score_layer=0 must be a whole number from 1"),
        (dict(gate=3), "gate=3 must lie between"),
        (dict(positions="new"), "positions='new' must be"),
        (dict(method="best"), "method='best' must be one of dynamic"),
        (dict(merge_threshold=7), "merge_threshold=7 is a cosine"),
        (dict(prune_ratio="0.7"), "prune_ratio='0.7' must be"),
        (dict(merge_ratio="0.7"), "merge_ratio='0.7' must lie"),
        (dict(gate="1"), "gate='1' must lie"),
        (dict(score_layer=True), "score_layer=True must be a whole"),
        (dict(method=None), "method=None must be one of dynamic"),
        (dict(method=Dynamic), "method=<class .* must be one of dynamic"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DyCokeConfig(**settings)


def test_what_cannot_work_is_refused_before_any_token(family, model, inputs):
    settings = settings_of(family)
    with pytest.raises(ValueError, match="score_layer=4 must be below the model's 4"), DyCoke(score_layer=4)(model):
        pass
    with pytest.raises(ValueError, match=f"give {CACHE}=DynamicCache"), DyCoke(**settings)(model), torch.no_grad():
        model(**inputs, use_cache=False)
    with pytest.raises(RuntimeError, match="inside a DyCoke context already"), DyCoke(**settings)(model), DyCoke(**settings)(model):
        pass
    with pytest.raises(ValueError, match="heads='max' must be 'mean' or 'all'"), capture_attention(model, "max"):
        pass


def test_an_unsupported_model_is_told_how_to_become_supported():
    for context in (DyCoke(), capture_attention):
        with pytest.raises(
            TypeError, match=r"has no adapter here; supported: llava_onevision.*gemma3.*dycoke_lab/models/README.md"
        ):
            context(torch.nn.Linear(2, 2)).__enter__()
    assert (ROOT / HOW_TO).is_file()


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("gemma3", dict(score_layer=3), "layer 2, whose attention would be the score, sees only a window.*score_layer from 2"),
        ("gemma3", dict(score_layer=2, method="fastv"), "method='fastv' drops tokens inside the prefill.*sliding window"),
        ("qwen3_vl", dict(score_layer=1, method="fastv"), "the first 2 layers get visual tokens of their own"),
    ],
    indirect=["family"],
)
def test_what_a_family_cannot_do_is_refused(family, model, settings, message):
    with pytest.raises(ValueError, match=message), DyCoke(**settings)(model):
        pass


@pytest.mark.parametrize("family", ["video_llama_3"], indirect=True)
def test_tokens_that_the_processor_dropped_are_named(family, model, inputs):
    inputs = {**inputs, "video_compression_mask": inputs["video_compression_mask"].clone()}
    inputs["video_compression_mask"][3] = False
    with pytest.raises(ValueError, match="use_token_compression"), DyCoke()(model):
        generate(model, inputs)
