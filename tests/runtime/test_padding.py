"""Batches of different prompts: each batch element is as if it were alone, whatever pads it."""

from __future__ import annotations

import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.matrix import SETTINGS, STEPS, generate, longer, mixed_prompts, together, turn_of
from helpers.tiny import PRUNING, cache_of, inputs_of

from dycoke_lab import TTM, capture_attention
from dycoke_lab.methods import Compression, Dynamic, FastV, compose
from dycoke_lab.runtime import generation

ALMOST_NOTHING = [
    TTM(1e-9),
    Dynamic(1e-9, from_layer=2),
]  # ratios so small that no token goes: the same as stock


@pytest.fixture(params=[True, False], ids=["cpu", "as a gpu"])
def reads_are_free(request, monkeypatch):
    """Whether the CPU reads numbers at each step, for which a GPU would have to be waited for."""
    monkeypatch.setattr(generation, "reads_are_free", lambda device: request.param)


@pytest.mark.parametrize("compression", SETTINGS, ids=str)
def test_a_padded_batch_of_mixed_prompts_equals_the_single_runs(family, model, compression):
    singles = [family.inputs(parts) for parts in mixed_prompts(family)]
    with compression(model):
        alone = []
        for single in singles:
            with capture_attention(model) as trace:
                alone.append((*generate(model, single)[:2], trace))
        with capture_attention(model) as trace:
            sequences, logits, _ = generate(model, together(family, singles))
    for b, (written, expected, own) in enumerate(alone):
        torch.testing.assert_close(logits[b], expected[0], atol=1e-6, rtol=0)
        assert torch.equal(sequences[b, -STEPS:], written[0, -STEPS:])
        for layer in range(4):
            assert torch.equal(trace.kept(layer, b), own.kept(layer))
            torch.testing.assert_close(trace.stack(layer, b), own.stack(layer), atol=1e-6, rtol=0)


@pytest.mark.usefixtures("reads_are_free")
@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_a_prompt_without_a_video_may_stand_in_a_batch(family, model):
    """Also if it has just as many columns to attend to as the others keep, or one less."""
    video = family.inputs(["user\n", ("video", frames(2, 1)), "then?"])
    columns = video["input_ids"].shape[1]
    kept = columns - 32 + int(0.1 * 32 + 0.5)
    with Dynamic(0.9, from_layer=2, reselect_below=2.0)(model):
        expected = generate(model, video)[1]
        for tokens in range(kept - 2, kept + 2):
            batch = {name: video[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
            batch["input_ids"][1] = 60
            batch["attention_mask"][1, : columns - tokens] = 0
            text = {name: batch[name][1:, columns - tokens :] for name in ("input_ids", "attention_mask")}
            found = generate(model, {**video, **batch})[1]
            torch.testing.assert_close(found[:1], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(found[1:], generate(model, text)[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("merge_ratio", [0.0, 0.5])
@pytest.mark.parametrize("method", ["dynamic", "fastv", "uniform", "random", "keep_first", "keep_none"])
def test_a_long_text_beside_a_video_is_as_alone(tiny, method, merge_ratio):
    """The text keeps all of its columns: the prompt is as long for the upper layers as for the lower."""
    video = inputs_of(8, 1)
    columns = video["input_ids"].shape[1]
    text = turn_of(torch.randint(20, 60, (1, columns)))
    both = {**video, **{name: torch.cat([video[name], text[name]]) for name in text}}
    with compose(method, merge_ratio, 0.7, from_layer=2)(tiny):
        found = generate(tiny, both)[1]
        if method != "random":  # whose choice goes by the shape of the batch
            torch.testing.assert_close(found[:1], generate(tiny, video)[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(found[1:], generate(tiny, text)[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("counts", [(8, 4), (4, 8)])
def test_fastv_in_a_batch_without_padding_is_as_alone(tiny, counts):
    """Prompts of one length keep different numbers of tokens: what fills up the shorter is hidden."""
    family = FAMILIES["llava_onevision"]
    singles = [family.inputs(["user\n", ("video", frames(count, count)), "then?"]) for count in counts]
    longest = max(one["input_ids"].shape[1] for one in singles)
    for one in singles:
        missing = longest - one["input_ids"].shape[1]
        one |= turn_of(torch.cat([torch.full((1, missing), 30), one["input_ids"]], 1))
    with FastV(0.7, from_layer=2)(tiny), torch.no_grad():
        for one in singles:
            text = torch.randint(20, 60, (1, longest))
            both = {**one, **turn_of(torch.cat([one["input_ids"], text]))}
            found = tiny(**both, use_cache=True, past_key_values=cache_of(tiny)).logits
            alone = tiny(**one, use_cache=True, past_key_values=cache_of(tiny)).logits
            torch.testing.assert_close(found[:1, -1], alone[:, -1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("compression", SETTINGS, ids=str)
def test_a_later_turn_may_bring_padding(family, model, prompts, compression):
    """Answers and then questions of different lengths: a batch's second turn equals the single runs."""
    if family.name == "gemma3":
        pytest.skip("a window counts padding too, in stock transformers as here")
    inputs = family.inputs(*prompts)
    more = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    with compression(model):
        sequences, _, cache = generate(model, inputs, 3)
        whole = longer(inputs, torch.cat([sequences, more], 1))
        start = sequences.shape[1]
        whole["attention_mask"][0, start : start + 2] = 0
        turn = {name: whole[name] for name in ("input_ids", "attention_mask")}
        logits = generate(model, turn, 3, past_key_values=cache)[1]
        for b, parts in enumerate(prompts):
            own, _, cache = generate(model, family.inputs(parts), 3)
            asked = turn_of(torch.cat([own, more[b : b + 1, 2 if b == 0 else 0 :]], 1))
            found = generate(model, asked, 3, past_key_values=cache)[1][0]
            torch.testing.assert_close(found, logits[b], atol=1e-6, rtol=0)


@pytest.mark.parametrize("compression", ALMOST_NOTHING, ids=str)
def test_a_step_of_one_token_may_be_padding_for_a_batch_element(tiny, compression):
    given = inputs_of(batch=2)
    found = []
    for one in (Compression(), compression):
        with one(tiny), torch.no_grad():
            cache, mask = cache_of(tiny), given["attention_mask"]
            tiny(**given, past_key_values=cache)
            logits = []
            for number in range(4):
                mask = torch.cat([mask, torch.tensor([[1], [int(number != 1)]])], 1)
                places = (mask.cumsum(1) - 1)[:, -1:]
                ids = torch.tensor([[20 + number], [50 + number]])
                step = dict(input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache)
                logits.append(tiny(**step).logits)
        found.append(torch.cat(logits, 1))
    real = torch.tensor([[True] * 4, [True, False, True, True]])
    torch.testing.assert_close(found[1][real], found[0][real], atol=1e-9, rtol=0)


@pytest.mark.usefixtures("reads_are_free")
def test_padding_of_one_token_is_known_at_the_next_turn_at_the_latest(tiny):
    """Where reading a step's mask would have a GPU wait, it is read with the next turn."""
    given = inputs_of(batch=2)
    found = []
    for compression in (Compression(), ALMOST_NOTHING[0] + ALMOST_NOTHING[1]):
        with compression(tiny), torch.no_grad():
            cache, mask = cache_of(tiny), given["attention_mask"]
            tiny(**given, past_key_values=cache)
            mask = torch.cat([mask, torch.tensor([[1], [0]])], 1)
            tiny(input_ids=torch.tensor([[20], [50]]), attention_mask=mask, past_key_values=cache)
            mask = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
            turn = torch.tensor([[21, 22, 23], [51, 52, 53]])
            places = (mask.cumsum(1) - 1)[:, -3:]
            step = dict(input_ids=turn, attention_mask=mask, position_ids=places, past_key_values=cache)
            found.append(tiny(**step).logits)
            if not compression.off:
                with pytest.raises(ValueError, match="had padding after the prompt"):
                    tiny(input_ids=turn[:, :1], past_key_values=cache)
    torch.testing.assert_close(found[1], found[0], atol=1e-9, rtol=0)


def test_later_steps_of_a_pruned_batch_are_as_alone(tiny):
    """Without any mask given after the prompt."""
    given, step = inputs_of(batch=2), torch.tensor([[30], [31]])
    with PRUNING(tiny), torch.no_grad():
        logits = []
        for rows in ([0, 1], [0], [1]):
            cache = cache_of(tiny)
            tiny(**{name: value[rows] for name, value in given.items()}, past_key_values=cache)
            logits.append(tiny(input_ids=step[rows], past_key_values=cache).logits)
    torch.testing.assert_close(logits[0], torch.cat(logits[1:]), atol=1e-9, rtol=0)
