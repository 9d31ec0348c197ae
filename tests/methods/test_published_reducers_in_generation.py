"""Published methods that act inside the prefill, under real `generate`, against a mask on the unmodified
model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.covering import across_families
from helpers.families import decoder_of, frames
from helpers.flash import FLASH, register_flash
from helpers.forced import forced_logits
from helpers.matrix import WORDS, compare_with_the_oracle, generate, mixed_prompts, together
from helpers.oracles import Slow, choose
from helpers.reducer_cases import slow_of
from helpers.slow_methods import slow_version

from dycoke_lab import TTM, capture_attention
from dycoke_lab.methods import Assignment, Dynamic, PrefillReducer
from dycoke_lab.methods.framefusion import FrameFusion
from dycoke_lab.methods.holitom_inner import HoliTomInner
from dycoke_lab.methods.prunevid_inner import PruneVidInner
from dycoke_lab.methods.pyramiddrop import PyramidDrop
from dycoke_lab.methods.scores import top
from dycoke_lab.methods.sttm import STTM

KINDS = [PyramidDrop, PruneVidInner, HoliTomInner, FrameFusion, STTM]
MORE = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))  # a second turn


def on(family, kind, **fields):
    """A method as this family can have it: on Qwen3-VL from layer 2 on."""
    least = 2 if family.name == "qwen3_vl" else kind.first_layer
    return kind(**{"from_layer": least, **fields})


CASES = [
    (PyramidDrop, {}),
    (PyramidDrop, dict(prune_ratio=0.8, stages=(0.5, 0.75))),
    (PruneVidInner, {}),
    (HoliTomInner, {}),
    (HoliTomInner, dict(prune_ratio=0.9, from_layer=3)),
    (FrameFusion, dict(prune_ratio=0.5, similarity=0.3)),
    (FrameFusion, dict(prune_ratio=0.5, similarity=0.9)),
    (FrameFusion, dict(prune_ratio=0.4, similarity=0.55, ratio_bound=0.0)),
    (STTM, {}),
    (STTM, dict(from_layer=2, tau_s=0.4, tau_t=0.3, root_level=0)),
    (STTM, dict(tau_s=0.8, tau_t=None, root_level=0)),
]


@pytest.mark.parametrize(("family", "kind", "fields"), across_families(CASES), indirect=["family"])
def test_generation_equals_a_mask_on_the_unmodified_model(family, model, prompts, inputs, kind, fields):
    """In a second turn, too. And it is not what the full model writes."""
    method = on(family, kind, **fields)
    compare_with_the_oracle(family, model, prompts, method, Slow(reduce=slow_of(method)), more=MORE)
    before = generate(model, inputs, 2)[1]
    with method(model):
        assert not torch.allclose(generate(model, inputs, 2)[1], before, atol=1e-4)


@pytest.mark.parametrize(("family", "kind"), across_families(KINDS), indirect=["family"])
def test_several_videos_in_one_prompt(family, model, kind):
    one, two = (frames(n * family.paired, seed) for n, seed in ((6, 3), (6 if family.equal else 4, 4)))
    if not family.mixed:
        two = frames(6 * family.paired, 4)
    parts = ["user\n", ("video", one), WORDS, ("video", two), "then?"]
    method = on(family, kind)
    compare_with_the_oracle(family, model, [parts], method, Slow(reduce=slow_of(method)))


@pytest.mark.parametrize(("family", "kind"), across_families(KINDS), indirect=["family"])
def test_a_padded_batch_equals_the_single_runs(family, model, kind):
    singles = [family.inputs(parts) for parts in mixed_prompts(family)]
    alone = []
    with on(family, kind)(model):
        for single in singles:
            with capture_attention(model) as trace:
                alone.append((generate(model, single, 3)[1], trace))
        with capture_attention(model) as trace:
            logits = generate(model, together(family, singles), 3)[1]
    for b, (expected, single) in enumerate(alone):
        torch.testing.assert_close(logits[b], expected[0], atol=1e-6, rtol=0)
        for layer in range(4):
            assert torch.equal(trace.kept(layer, b), single.kept(layer))


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("attention", ["eager", "flash"])
def test_other_kernels_before_layer_0(family, model, prompts, attention):
    """A reducer before layer 0 shortens all masks, of a padded batch, too."""
    method = FrameFusion(0.5, similarity=0.3)
    if attention == "eager":
        slow = Slow(reduce=slow_of(method))
        compare_with_the_oracle(family, model, prompts[:1], method, slow, attention="eager")
        return
    register_flash()
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    with method(model):
        expected = generate(model, inputs)[1]
    config = decoder_of(model).config
    config._attn_implementation = FLASH
    try:
        with method(model):
            found = generate(model, inputs)[1]
    finally:
        config._attn_implementation = "sdpa"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("kind", [FrameFusion, STTM])
def test_beams_follow_a_reducer_before_layer_0(family, model, prompts, kind):
    """Each answer's score is that of the same answer, token for token, forced through a run of its own."""
    inputs = family.inputs(prompts[1])
    settings = dict(max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True, output_scores=True)
    with kind(from_layer=0)(model):
        out = model.generate(**inputs, num_beams=3, num_return_sequences=3, do_sample=False, **settings)
        scores = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        for written, score in zip(out.sequences[:, inputs["input_ids"].shape[1] :], scores, strict=True):
            expected = forced_logits(model, inputs, written).log_softmax(-1).gather(1, written[:, None])[:, 0]
            torch.testing.assert_close(score.double(), expected, atol=1e-4, rtol=0)


@dataclass(frozen=True)
class LastThree(PrefillReducer):
    """Keep what the prompt's last three queries attend to."""

    window: ClassVar[int] = 3

    def reduce(self, state):
        votes = state.window_attention.sum((1, 2))
        return Assignment.keep(top(votes, state.candidates, state.budget))


def last_three(stage):
    votes = stage.text[:, -3:].sum((0, 1)).tolist()
    stays = choose(votes, stage.present, 0.4)
    return [v if v in stays else -1 for v in range(len(votes))]


@pytest.mark.parametrize(
    ("family", "method"), across_families([LastThree(0.6, from_layer=2)]), indirect=["family"], ids=str
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_method_of_ones_own_gets_a_window_of_queries(family, model, prompts, method, attention):
    compare_with_the_oracle(family, model, prompts[:1], method, Slow(reduce={2: last_three}), attention)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_reducers_compose_with_temporal_merging_and_a_selector(family, model, prompts):
    both = TTM(threshold=0.9) + Dynamic(0.5, from_layer=3)
    parts = slow_version(both, 2, 128)
    for method in (STTM(from_layer=1), PruneVidInner(from_layer=2), FrameFusion(0.4, from_layer=1)):
        at = slow_of(method)
        if type(method) is FrameFusion:
            with pytest.raises(ValueError, match="must lie above the last layer 3"):
                (both + method)(model).__enter__()
            continue
        slow = Slow(merge=parts.merge, reduce=at, rule=parts.rule)
        compare_with_the_oracle(family, model, prompts, both + method, slow)


@pytest.mark.parametrize(
    ("family", "method", "message"),
    [
        *(("gemma3", kind(from_layer=2), "sliding window") for kind in KINDS),
        ("qwen3_vl", FrameFusion(), "the first 2 layers get visual tokens of their own"),
        ("qwen3_vl", PyramidDrop(), "at from_layer=1: the first 2 layers get visual"),
        ("llava_onevision", HoliTomInner(), r"acts before layers \[18\].* it may act before 1 to 3"),
        ("llava_onevision", STTM(from_layer=4), r"acts before layers \[4\].* it may act before 0 to 3"),
    ],
    indirect=["family"],
)  # fmt: skip
def test_what_a_model_cannot_do_is_refused(family, model, method, message):
    with pytest.raises(ValueError, match=message):
        method(model).__enter__()
