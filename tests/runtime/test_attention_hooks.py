"""Kernels: which are hooked, what they are given, and what happens when they are changed."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.families import decoder_of
from helpers.flash import FLASH, register_flash
from helpers.matrix import FEW_BEFORE_ALL, SETTINGS, generate, mixed_prompts, together
from helpers.tiny import MERGING, PRUNING, inputs_of, write
from transformers import AttentionInterface, Lfm2Config
from transformers.cache_utils import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dycoke_lab import TTM, DyCoke, capture_attention
from dycoke_lab.bench.model_shapes import SHAPES, TEXT, build_model, random_prompt
from dycoke_lab.methods import FastV, LastQuery
from dycoke_lab.runtime.attention_hooks import _CONFIGS
from dycoke_lab.runtime.generation import Generation
from dycoke_lab.runtime.session import generation_of


@pytest.mark.parametrize("family", FEW_BEFORE_ALL, indirect=True)
@pytest.mark.parametrize(
    "compression", [*SETTINGS, TTM(0.5) + FastV(0.5, from_layer=2), LastQuery(0.6, from_layer=2)], ids=str
)
def test_flash_attention_gets_its_masks(family, model, compression):
    if family.name == "gemma3":
        pytest.skip("images that see each other are no mask that FlashAttention can have")
    register_flash()
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    config = decoder_of(model).config
    logits = []
    try:
        for kernel in ("sdpa", FLASH):
            config._attn_implementation = kernel
            with compression(model):
                logits.append(generate(model, inputs)[1])
    finally:
        config._attn_implementation = "sdpa"
    torch.testing.assert_close(logits[1], logits[0], atol=1e-6, rtol=0)


def test_a_kernel_without_a_mask_function_is_hooked_and_flex_attention_is_refused(tiny):
    config = tiny.model.language_model.config
    write(tiny, inputs_of())  # transformers itself leaves a few hooks
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny.modules())
    AttentionInterface.register("tests_maskless", sdpa_attention_forward)
    given = inputs_of()
    try:
        with PRUNING(tiny):
            expected = write(tiny, given)[0]
        config._attn_implementation = "tests_maskless"
        with PRUNING(tiny):
            assert torch.equal(write(tiny, given)[0], expected)
        config._attn_implementation = "flex_attention"
        for context in (DyCoke(), capture_attention):
            with pytest.raises(ValueError, match="flex_attention"):
                context(tiny).__enter__()
    finally:
        config._attn_implementation = "sdpa"
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny.modules()) == hooks


def test_a_model_is_not_copied_or_given_another_kernel_inside(tiny):
    for context in (DyCoke(), capture_attention):
        with context(tiny), pytest.raises(RuntimeError, match="copy it before entering"):
            copy.deepcopy(tiny)
    own = copy.deepcopy(tiny)
    for context in (DyCoke(), capture_attention):
        with context(own):
            own.set_attn_implementation("eager")
            with pytest.raises(RuntimeError, match="'eager' inside a dycoke_lab context: set it before"):
                write(own, inputs_of())
        assert own.model.language_model.config._attn_implementation == "eager"
        own.set_attn_implementation("sdpa")


def test_a_kernel_that_is_set_inside_is_captured_after_merging_and_refused_after_pruning(tiny):
    for compression, refused in ((MERGING, False), (PRUNING, True)):
        with compression(tiny), torch.no_grad():
            tiny.set_attn_implementation("eager")
            if refused:
                message = "'eager' inside a dycoke_lab context: set"
                with pytest.raises(RuntimeError, match=message), capture_attention(tiny):
                    pass
            else:
                with capture_attention(tiny) as trace:
                    write(tiny, inputs_of(), 3)
                assert len(trace.attention) == 3
        assert not _CONFIGS and tiny.model.language_model.config._attn_implementation == "eager"
        tiny.set_attn_implementation("sdpa")


def test_a_function_of_ones_own_by_the_name_of_sdpa_is_called(tiny):
    calls = []

    def own(module, query, *rest, **kwargs):
        calls.append(query.shape[2])
        return sdpa_attention_forward(module, query, *rest, **kwargs)

    AttentionInterface.register("sdpa", own)
    try:
        with PRUNING(tiny):
            write(tiny, inputs_of(), 4)
    finally:
        AttentionInterface.register("sdpa", sdpa_attention_forward)
    assert calls.count(1) == 3 * len(tiny.model.language_model.layers)


def test_a_decoder_with_layers_of_another_kind_can_merge():
    """A convolution has no attention, and a cache of its own kind."""
    from helpers.tiny import FAMILY
    from helpers.vocabulary import ID, LAYERS
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    base = FAMILY.model().config
    text = Lfm2Config(
        vocab_size=len(ID), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    assert LAYERS == 4
    config = LlavaOnevisionConfig(
        vision_config=base.vision_config,
        text_config=text,
        image_token_id=base.image_token_id,
        video_token_id=base.video_token_id,
    )
    model = LlavaOnevisionForConditionalGeneration(config).double().eval()
    with MERGING(model):
        logits, cache = write(model, inputs_of(), 3)
        assert logits.shape[1] == 3 and type(cache.layers[1]).__name__ == "InPlaceLayer"


def test_an_error_in_a_forward_pass_leaves_nothing_running(tiny):
    with PRUNING(tiny):
        cache = write(tiny, inputs_of())[1]

        def stop(*_):
            raise torch.OutOfMemoryError("no room")

        hook = tiny.model.language_model.layers[2].register_forward_hook(stop)
        with pytest.raises(torch.OutOfMemoryError), torch.no_grad():
            tiny(input_ids=torch.tensor([[30]]), past_key_values=cache)
        hook.remove()
        from dycoke_lab.runtime.session import current_generation

        assert generation_of(tiny, cache) is not None and current_generation(tiny) is None


@pytest.mark.parametrize("batch", [1, 2])
def test_masks_are_cropped_only_in_a_batch_or_under_a_mask(batch, monkeypatch):
    crop, asked = Generation.crop, []
    monkeypatch.setattr(Generation, "crop", lambda self, call: asked.append(call.layer) or crop(self, call))
    model = build_model("tiny")
    token = torch.full((batch, 1), TEXT)
    with DyCoke(0.5, 0.5, from_layer=1, reselect_below=2.0)(model), torch.no_grad():
        cache = DynamicCache(config=model.config.get_text_config())
        model(**random_prompt("tiny", model, 4, batch), past_key_values=cache)
        asked.clear()
        model(input_ids=token, past_key_values=cache)
    assert asked == ([] if batch == 1 else list(range(1, SHAPES["tiny"].layers)))
