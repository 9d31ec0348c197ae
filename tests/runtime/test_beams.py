"""Beams, several answers, sampling, streams, assisted decoding, and batch elements that are exchanged."""

from __future__ import annotations

import pytest
import torch
from helpers.forced import forced_logits
from helpers.matrix import SETTINGS, STEPS, generate
from helpers.tiny import cache_of, inputs_of
from helpers.vocabulary import ID
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from dycoke_lab import TTM
from dycoke_lab.methods import Compression, Dynamic

BEAMS = [
    dict(num_beams=3),
    dict(num_beams=4, num_return_sequences=2),
    dict(do_sample=True, num_return_sequences=3, top_k=20),
]


@pytest.mark.parametrize("how", BEAMS, ids=str)
def test_beams_and_several_answers_are_what_a_mask_would_give(family, model, prompts, how):
    """Each answer's score is that of the same answer, token for token, forced through a run of its own."""
    inputs = family.inputs(prompts[1])
    settings = dict(max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True, output_scores=True)
    with SETTINGS[0](model):
        torch.manual_seed(3)
        out = model.generate(**inputs, **{"do_sample": False, **how}, **settings)
        sampled = how.get("do_sample", False)
        beams = None if sampled else out.beam_indices
        scores = model.compute_transition_scores(out.sequences, out.scores, beams, normalize_logits=sampled)
        prompt = inputs["input_ids"].shape[1]
        for written, score in zip(out.sequences[:, prompt:], scores, strict=True):
            logits = forced_logits(model, inputs, written)
            if sampled:
                logits[:, ID["<|end|>"]] = -torch.inf  # by min_new_tokens
                logits = logits.masked_fill(logits < logits.topk(20).values[:, -1:], -torch.inf)
            expected = logits.log_softmax(-1).gather(1, written[:, None])[:, 0]
            torch.testing.assert_close(score.double(), expected, atol=1e-4, rtol=0)


def test_sampling_streaming_and_stopping(model, family, prompts):
    inputs = family.inputs(prompts[0])
    tokenizer = family.processor().tokenizer
    with SETTINGS[0](model):
        sampled = [generate(model, inputs, do_sample=True) for _ in range(2) if torch.manual_seed(5)]
        assert torch.equal(sampled[0][0], sampled[1][0])
        greedy = generate(model, inputs)[0]
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        settings = dict(max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
        model.generate(**inputs, **settings, streamer=streamer)
        plain = model.generate(**inputs, **settings)
        assert "".join(streamer) == tokenizer.decode(plain[0, inputs["input_ids"].shape[1] :])

        class AfterThree(StoppingCriteria):
            def __call__(self, ids, scores, **_):
                return torch.full((len(ids),), ids.shape[1] >= inputs["input_ids"].shape[1] + 3)

        stopped = generate(model, inputs, stopping_criteria=StoppingCriteriaList([AfterThree()]))[0]
        assert torch.equal(stopped, greedy[:, : stopped.shape[1]])
        assert stopped.shape[1] == inputs["input_ids"].shape[1] + 3


def test_prompt_lookup_on_merged_tokens_writes_the_same_answer(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with TTM(0.5)(model):
        plain = generate(model, inputs, 12)[0]
        assert torch.equal(generate(model, inputs, 12, prompt_lookup_num_tokens=2)[0], plain)


@pytest.mark.parametrize("merge_ratio", [0.0, 0.5])
@pytest.mark.parametrize("prune_ratio", [0.0, 0.7])
@pytest.mark.parametrize("chosen", [[1, 0], [1], [0, 0, 1], "repeated", torch.tensor([False, True])], ids=str)
def test_batch_elements_are_exchanged_dropped_and_repeated_before_any_step(
    tiny, chosen, merge_ratio, prune_ratio
):
    """As if the prompt had been read by those batch elements alone."""
    given = inputs_of(batch=2)
    given["attention_mask"][0, :1] = 0  # different amounts of padding
    rows = [0, 0, 1, 1] if chosen == "repeated" else [1] if isinstance(chosen, torch.Tensor) else chosen
    compression = Compression.of(TTM(merge_ratio)) + Dynamic(prune_ratio, from_layer=2, reselect_below=2.0)
    found = []
    for before in (True, False):
        with compression(tiny), torch.no_grad():
            cache, mask = cache_of(tiny), given["attention_mask"]
            tiny(**given, past_key_values=cache)
            if before:
                if chosen == "repeated":
                    cache.batch_repeat_interleave(2)
                else:
                    cache.batch_select_indices(chosen)
                mask = mask[rows]
            logits = []
            for number in range(3):
                mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], 1)
                ids = torch.tensor([[20 + number], [50 + number]])
                ids = ids[rows] if before else ids
                logits.append(tiny(input_ids=ids, attention_mask=mask, past_key_values=cache).logits)
        logits = torch.cat(logits, 1)
        found.append(logits if before else logits[rows])
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)
