"""Published methods on the KV cache in batches of different prompts, with beams, on FlashAttention's
masks, from a shared prefill, and what they free."""

from __future__ import annotations

import pytest
import torch
from helpers.covering import across_families
from helpers.families import decoder_of
from helpers.flash import FLASH, register_flash
from helpers.forced import forced_logits
from helpers.matrix import STEPS, generate, mixed_prompts, together
from helpers.slow_methods import seams_of
from helpers.tiny import cache_of

from dycoke_lab import TTM, capture_attention
from dycoke_lab.methods import Compression
from dycoke_lab.methods.ablations import DynamicAblation, DynamicMass
from dycoke_lab.methods.h2o import H2O
from dycoke_lab.methods.pyramidkv import PyramidKV
from dycoke_lab.methods.quest import Quest
from dycoke_lab.methods.snapkv import SnapKV
from dycoke_lab.methods.streamingllm import StreamingLLM
from dycoke_lab.methods.tova import TOVA
from dycoke_lab.runtime.shared_prefill import SharedPrefill

SELECTORS = [
    SnapKV(0.6),
    TTM(0.3) + PyramidKV(0.7),
    TOVA(0.9),
    TTM(threshold=0.9) + H2O(0.6),
    StreamingLLM(0.6),
    Quest(0.6),
    DynamicAblation(0.6, from_layer=2, heads="max"),
    DynamicMass(mass=0.5, from_layer=2),
]


@pytest.fixture(params=SELECTORS, ids=str)
def own(request):
    return request.param


@pytest.mark.parametrize(("family", "own"), across_families(SELECTORS), indirect=["family"], ids=str)
def test_a_padded_batch_equals_the_single_runs(family, model, own):
    singles = [family.inputs(parts) for parts in mixed_prompts(family)]
    with own(model):
        alone = []
        for single in singles:
            with capture_attention(model) as trace:
                alone.append((generate(model, single)[1], trace))
        with capture_attention(model) as trace:
            logits = generate(model, together(family, singles))[1]
    for b, (expected, single) in enumerate(alone):
        torch.testing.assert_close(logits[b], expected[0], atol=1e-6, rtol=0)
        for layer in range(4):
            assert torch.equal(trace.kept(layer, b), single.kept(layer))


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_beams_are_followed(family, model, prompts, own):
    """Each answer's score is that of the same answer, forced token for token through a run of its own."""
    inputs = family.inputs(prompts[1])
    settings = dict(max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True)
    with own(model):
        out = model.generate(
            **inputs, num_beams=3, num_return_sequences=3, do_sample=False, output_scores=True, **settings
        )
        scores = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        prompt = inputs["input_ids"].shape[1]
        for written, score in zip(out.sequences[:, prompt:], scores, strict=True):
            logits = forced_logits(model, inputs, written)
            expected = logits.log_softmax(-1).gather(1, written[:, None])[:, 0]
            torch.testing.assert_close(score.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_exchanged_batch_elements_are_followed(family, model, prompts, own):
    found = []
    for exchanged in (False, True):
        with own(model), torch.no_grad():
            cache, ids = cache_of(model), torch.arange(20, 28).view(2, 4)
            model(**family.inputs(*prompts), past_key_values=cache)
            for number, step in enumerate(ids.split(1, 1)):
                if number == 1 and exchanged:
                    cache.reorder_cache(torch.tensor([1, 0]))
                rows = [1, 0] if number and exchanged else [0, 1]
                logits = model(input_ids=step[rows], past_key_values=cache).logits[rows]
        found.append(logits)
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_flash_attention_gets_their_masks(family, model, own):
    register_flash()
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    config = decoder_of(model).config
    with own(model):
        expected = generate(model, inputs)[1]
    config._attn_implementation = FLASH
    try:
        with own(model):
            found = generate(model, inputs)[1]
    finally:
        config._attn_implementation = "sdpa"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision", "gemma3"], indirect=True)
def test_a_shared_prefill_decodes_as_generate_does(family, model, prompts, own):
    """Though it keeps only the prompt's last 64 queries."""
    inputs = family.inputs(prompts[0])
    with own(model):
        sequences, logits, _ = generate(model, inputs)
    answer = sequences[:, inputs["input_ids"].shape[1] :]
    merger, _, selector = seams_of(own)
    found = SharedPrefill(model, inputs, Compression(merger)).forced(selector, answer)
    torch.testing.assert_close(found.float(), logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_a_window_that_a_shared_prefill_does_not_keep_is_refused(family, model, prompts):
    shared = SharedPrefill(model, family.inputs(prompts[0]))
    with (
        pytest.raises(ValueError, match=r"window=65 of H2O.*keeps the last 64 queries"),
        shared.start(H2O(window=65)),
    ):
        pass


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_what_they_evict_frees_its_memory(family, model, prompts):
    inputs = family.inputs(prompts[0])
    text, kept = inputs["input_ids"].shape[1] - 128, int(0.4 * 128 + 0.5)
    for method, left in (
        (SnapKV(0.6), [kept] * 4),
        (PyramidKV(0.6), [kept + 49, kept + 16, kept - 16, kept - 49]),
        (TOVA(0.6), [kept - (STEPS - 2)] * 4),  # the last choice is applied by the next step
        (H2O(0.6), [kept - (STEPS - 2)] * 4),
        (H2O(0.6, answer_counts=False), [kept] * 4),
        (StreamingLLM(0.6), [kept - (STEPS - 2)] * 4),
        (Quest(0.6), [128] * 4),
    ):
        with method(model):
            cache = generate(model, inputs)[2]
        assert [layer.keys.shape[2] - text - (STEPS - 1) for layer in cache.layers] == left, method
