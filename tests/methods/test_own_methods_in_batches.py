"""Methods of one's own in batches of different prompts, with beams, and what they free."""

from __future__ import annotations

import pytest
import torch
from helpers.families import decoder_of
from helpers.flash import FLASH, register_flash
from helpers.forced import forced_logits
from helpers.matrix import FEW_BEFORE_ALL, STEPS, generate, mixed_prompts, together, turn_of
from helpers.own_methods import (
    AboveThreshold,
    HeavyHitters,
    IntoTheNearest,
    LargestVisionKeys,
    LikeTheText,
    MostAttendedPatches,
    SmallestKeys,
    WindowOfQueries,
    WithinFrame,
)
from helpers.tiny import cache_of

from dycoke_lab import TTM, capture_attention

SELECTORS = [
    WindowOfQueries(0.6, from_layer=2),
    TTM(0.3) + HeavyHitters(0.6, from_layer=1),
    AboveThreshold(0.6, from_layer=2),
    TTM(threshold=0.9) + SmallestKeys(0.6, from_layer=2),
]
MERGERS = [WithinFrame(5), MostAttendedPatches(0.4), LargestVisionKeys(), LikeTheText()]
REDUCERS = [IntoTheNearest(0.4, from_layer=2)]


@pytest.fixture(params=[*SELECTORS, *MERGERS, *REDUCERS], ids=str)
def own(request, family):
    if family.name == "qwen2_5_vl" and request.param in MERGERS[1:3]:
        pytest.skip("its vision tower reorders patches: refused")
    if family.name == "gemma3" and request.param in REDUCERS:
        pytest.skip("layers with a sliding window cannot drop tokens in the prefill: refused")
    return request.param


@pytest.mark.parametrize("family", FEW_BEFORE_ALL, indirect=True)
def test_own_methods_in_a_padded_batch_equal_the_single_runs(family, model, own):
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
            torch.testing.assert_close(trace.stack(layer, b), single.stack(layer), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_own_methods_leave_a_text_beside_a_video_alone(family, model, prompts, own):
    video = family.inputs(prompts[0])
    text = turn_of(torch.randint(20, 60, video["input_ids"].shape))
    both = {**video, **{name: torch.cat([video[name], text[name]]) for name in text}}
    with own(model):
        found = generate(model, both)[1]
        torch.testing.assert_close(found[:1], generate(model, video)[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(found[1:], generate(model, text)[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_own_methods_follow_the_beams(family, model, prompts, own):
    """Each answer's score is that of the same answer, token for token, forced through a run of its own."""
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
def test_own_methods_follow_exchanged_batch_elements(family, model, prompts, own):
    """Also what they remember of each, which differs more than between beams of one prompt."""
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


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"], indirect=True)
def test_flash_attention_gets_the_masks_of_own_methods(family, model, own):
    register_flash()
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    config = decoder_of(model).config
    with own(model):
        expected = generate(model, inputs)[1]
    config._attn_implementation = FLASH
    try:
        if isinstance(own, AboveThreshold):  # whose heads have different numbers of tokens
            with pytest.raises(ValueError, match=r"AboveThreshold.* which FlashAttention's masks cannot"):
                own(model).__enter__()
            return
        with own(model):
            found = generate(model, inputs)[1]
    finally:
        config._attn_implementation = "sdpa"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_what_own_selectors_evict_frees_its_memory(family, model, prompts):
    inputs = family.inputs(prompts[0])
    text = inputs["input_ids"].shape[1] - 128
    kept = int(0.4 * 128 + 0.5)
    for method, left in (
        (HeavyHitters(0.6, from_layer=1), kept - (STEPS - 2)),  # the last choice is applied by the next step
        (WindowOfQueries(0.6, from_layer=1), kept),
    ):
        with method(model):
            cache = generate(model, inputs)[2]
            lengths = {layer.keys.shape[2] - text - (STEPS - 1) for layer in cache.layers[1:]}
        assert lengths == {left}
        assert cache.layers[0].keys.shape[2] == text + 128 + STEPS - 1
